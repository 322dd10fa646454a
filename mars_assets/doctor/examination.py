"""All checks of the doctor, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mars_assets.doctor import cluster, file_system, hosts, instance, machine, network, packages
from mars_assets.doctor.findings import Check, Surroundings, run_checks
from mars_assets.doctor.greetings import greetings
from mars_assets.doctor.report import as_json, write_report
from mars_assets.doctor.shared_lake import same_lake

GROUPS: Mapping[str, tuple[Check, ...]] = {
    "Packages": packages.CHECKS,
    "Machine": machine.CHECKS,
    "Lake": file_system.CHECKS,
    "Hosts": (*hosts.CHECKS, greetings, same_lake),
    "Dagster": instance.CHECKS,
    "Network": network.CHECKS,
    "Cluster": cluster.CHECKS,
}


def examine(surroundings: Surroundings, say: Callable[[str], object], *, json: bool) -> int:
    """Run all checks and report.

    Args:
        surroundings: what the checks look at.
        say: receives the report, line by line.
        json: whether to report for machines.

    Returns:
        The exit status: 1 if there is a problem, else 0.
    """
    results = run_checks(GROUPS, surroundings)
    if not json:
        return int(bool(write_report(results, say)))
    found = list(results)
    say(as_json(found, surroundings))
    return int(any(result.finding.level == "problem" for result in found))
