"""Checks of Slurm and Ray, with programs and answers like theirs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mars_assets.doctor.cluster import munge, nodes_of_ray, ray, slurm
from mars_assets.doctor.findings import Surroundings
from mars_assets_tests.doctor.bad_states import only, surroundings
from mars_assets_tests.doctor.test_network import answering

pytestmark = pytest.mark.process


def programs(folder: Path, **scripts: str) -> Surroundings:
    """A PATH with nothing but these, of an instance that sends its runs to Slurm."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    launcher = {"run_launcher": {"module": "mars_assets.cluster.slurm", "class": "SlurmRunLauncher"}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(launcher))
    return surroundings(folder, environment={"PATH": str(folder / "bin"), "DAGSTER_HOME": str(folder)})


UP = "echo 'Slurmctld(primary) at head is UP'"


def test_without_slurm(tmp_path: Path) -> None:
    where = programs(tmp_path)
    assert only(slurm(where)).what == "no sbatch on PATH"
    assert list(munge(where)) == []


def test_slurm_answers(tmp_path: Path) -> None:
    where = programs(tmp_path, sbatch="", scontrol=UP, sinfo="echo 'h1 idle'; echo 'h2 mixed'")
    assert [finding.what for finding in slurm(where)] == ["Slurmctld(primary) at head is UP", "2 nodes"]
    programs(tmp_path, sinfo="echo 'h1 idle'; echo 'h2 down*'")
    last = list(slurm(where))[-1]
    assert (last.level, last.what) == ("note", "1 of 2 nodes take no jobs: h2 down*")
    programs(tmp_path, sinfo="echo 'h1 drained'; echo 'h2 down*'")
    assert list(slurm(where))[-1].level == "problem"


def test_slurm_does_not_answer(tmp_path: Path) -> None:
    where = programs(tmp_path, sbatch="", scontrol="echo 'Slurmctld(primary) at head is DOWN'")
    assert only(slurm(where)).level == "problem"
    programs(tmp_path, scontrol="echo 'Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact" in only(slurm(where)).what
    (tmp_path / "dagster.yaml").write_text("nux: {enabled: false}\n")
    assert only(slurm(where)).level == "note", "no run is sent to it"


def test_munge(tmp_path: Path) -> None:
    where = programs(tmp_path, sbatch="", munge="echo MUNGE:abc", unmunge='read line; [ "$line" = MUNGE:abc ]')
    assert only(munge(where)).level == "ok"
    programs(tmp_path, unmunge="echo 'unmunge: Error: Expired credential' >&2; exit 15")
    assert "Expired credential" in only(munge(where)).what
    programs(tmp_path, munge="echo 'munge: Error: Did you start munged?' >&2; exit 6")
    assert "start munged" in only(munge(where)).what


def node(ip: str, state: str = "ALIVE", head: bool = False, **resources: float) -> dict[str, Any]:
    return {"node_ip": ip, "state": state, "is_head_node": head, "resources_total": resources}


HEAD = node("10.0.0.1", head=True)


def test_nodes_of_ray() -> None:
    def said(*nodes: dict[str, Any]) -> list[tuple[str, str]]:
        return [(finding.level, finding.what) for finding in nodes_of_ray(nodes)]

    worker = node("10.0.0.2", CPU=8, GPU=2)
    assert said(HEAD, worker) == [("ok", "1 workers with 8 CPUs and 2 GPUs")]
    assert said(node("10.0.0.1", head=True, CPU=4), worker)[0] == ("problem", "the head 10.0.0.1 offers 4 CPUs")
    assert said(node("10.0.0.1", head=True, CPU=4)) == [("problem", "the head 10.0.0.1 offers 4 CPUs")]
    assert said(HEAD) == [("problem", "no worker has CPUs: every run would wait")]
    dead = node("10.0.0.3", "DEAD")
    assert said(HEAD, worker, dead)[0] == ("note", "1 nodes are gone: 10.0.0.3")
    assert said(HEAD, worker, node("10.0.0.2", "DEAD")) == said(HEAD, worker), "it came back"


def test_ray_is_asked(tmp_path: Path) -> None:
    answer = json.dumps({"data": {"result": {"result": [HEAD, node("10.0.0.2", CPU=2)]}}})
    with answering(answer.encode()) as address:
        where = surroundings(tmp_path, environment={"MARS_RAY_DASHBOARD": address})
        assert only(ray(where)).what == "1 workers with 2 CPUs and 0 GPUs"
    assert list(ray(where)) == [], "the check of the dashboard says that it does not answer"
