"""Checks of Slurm and Ray, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import requests

from mars_assets.doctor.findings import Check, Finding, Surroundings, note, ok, problem
from mars_assets.doctor.settings import launcher_of

_PATIENCE = 20
_BAD_NODE = re.compile(r"down|drain|fail|unk|no_respond|\*", re.IGNORECASE)


def slurm(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that Slurm's controller answers and has nodes."""
    if _found("sbatch", surroundings) is None:
        yield ok("no sbatch on PATH")
        return
    code, said = _run(surroundings, "scontrol", "ping")
    if code or "UP" not in said:
        advice = "start it, or look at SlurmctldHost in slurm.conf"
        yield _level(surroundings)(f"slurmctld does not answer ({_first(said)})", advice)
        return
    yield ok(_first(said))
    code, said = _run(surroundings, "sinfo", "--noheader", "--Node", "--format=%N %T")
    nodes = dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line) if code == 0 else {}
    bad = sorted(f"{name} {state.strip()}" for name, state in nodes.items() if _BAD_NODE.search(state))
    if not nodes or len(bad) == len(nodes):
        advice = "look at sinfo -R and scontrol show node"
        yield _level(surroundings)(f"no node takes jobs ({', '.join(bad) or 'none'})", advice)
    elif bad:
        yield note(f"{len(bad)} of {len(nodes)} nodes take no jobs: {', '.join(bad)}", "look at sinfo -R")
    else:
        yield ok(f"{len(nodes)} nodes")


def munge(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that munge, by which Slurm knows users, makes and accepts credentials."""
    if _found("sbatch", surroundings) is None or _found("munge", surroundings) is None:
        return
    code, credential = _run(surroundings, "munge", "-n")
    if code == 0:
        code, said = _run(surroundings, "unmunge", text=credential)
    else:
        said = credential
    if code:
        advice = "start munged, with the same key and time on all hosts"
        yield _level(surroundings)(f"munge fails ({_first(said)})", advice)
    else:
        yield ok("credentials are made and accepted")


def ray(surroundings: Surroundings) -> Iterator[Finding]:
    """Check the nodes of Ray: alive, with processors, and none on the head."""
    address = surroundings.environment.get("MARS_RAY_DASHBOARD", "").rstrip("/")
    if not address:
        yield ok("MARS_RAY_DASHBOARD is not set")
        return
    try:
        answer = requests.get(f"{address}/api/v0/nodes", params={"detail": "true", "limit": "10000"}, timeout=_PATIENCE)
        nodes = answer.json()["data"]["result"]["result"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return  # the check of the dashboard says so
    yield from nodes_of_ray(nodes)


def nodes_of_ray(nodes: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Say what nodes Ray has.

    Args:
        nodes: as Ray's dashboard lists them.
    """
    # A node that came back is listed twice: with its former state and its present one.
    alive = [node for node in nodes if node["state"] == "ALIVE"]
    addresses = {node["node_ip"] for node in alive}
    dead = sorted({node["node_ip"] for node in nodes if node["state"] != "ALIVE"} - addresses)
    heads = [node for node in alive if node.get("is_head_node")]
    workers = [node for node in alive if not node.get("is_head_node")]
    processors, gpus = (sum(_has(node, kind) for node in workers) for kind in ("CPU", "GPU"))
    for head in heads:
        if offered := _has(head, "CPU"):
            advice = "restart it with ray start --head --num-cpus=0, so that it is not slowed down by runs"
            yield problem(f"the head {head['node_ip']} offers {offered:g} CPUs", advice)
    if dead:
        yield note(
            f"{len(dead)} nodes are gone: {', '.join(dead)}", "start ray there again (ray start --address=HEAD:6379)"
        )
    if not processors and not sum(_has(head, "CPU") for head in heads):
        advice = "start ray on the workers (ray start --address=HEAD:6379)"
        yield problem("no worker has CPUs: every run would wait", advice)
    elif processors:
        yield ok(f"{len(workers)} workers with {processors:g} CPUs and {gpus:g} GPUs")


def _has(node: Mapping[str, Any], kind: str) -> float:
    return float((node.get("resources_total") or {}).get(kind, 0))


def _found(program: str, surroundings: Surroundings) -> str | None:
    return shutil.which(program, path=surroundings.environment.get("PATH"))


def _run(surroundings: Surroundings, program: str, *arguments: str, text: str = "") -> tuple[int, str]:
    """Run a program, and return its exit status and what it says."""
    path = _found(program, surroundings)
    if path is None:
        return 127, f"{program} is not on PATH"
    try:
        answer = subprocess.run(  # noqa: S603
            [path, *arguments], input=text, capture_output=True, text=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return 124, f"{program} does not end"
    return answer.returncode, (answer.stdout.strip() or answer.stderr.strip())


def _level(surroundings: Surroundings) -> Callable[[str, str], Finding]:
    """Choose how bad it is that Slurm fails: only a note where no run is sent to it."""
    return problem if "slurm" in launcher_of(surroundings) else note


def _first(text: str) -> str:
    return text.strip().partition("\n")[0] or "it says nothing"


CHECKS: tuple[Check, ...] = (slurm, munge, ray)
