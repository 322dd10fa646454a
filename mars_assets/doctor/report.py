"""The report of the doctor, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from mars_assets.doctor.findings import Result, Surroundings
from mars_assets.storage.files import printable


def write_report(results: Iterable[Result], say: Callable[[str], object]) -> list[Result]:
    """Write findings as they come, in groups.

    Problems are written once more at the end, with what to do.

    Args:
        results: the findings of all checks.
        say: receives each line.

    Returns:
        The problems.
    """
    problems = []
    group = ""
    for result in results:
        if result.group != group:
            say(f"\n{result.group}" if group else result.group)
            group = result.group
        finding = result.finding
        told = f": {finding.advice}" if finding.advice and finding.level == "note" else ""
        say(printable(f"  {finding.level:8} {result.check:21} {finding.what}{told}"))
        if finding.level == "problem":
            problems.append(result)
    say("")
    if not problems:
        say("No problem was found.")
        return []
    say("1 problem" if len(problems) == 1 else f"{len(problems)} problems")
    for number, result in enumerate(problems, 1):
        say(printable(f"{number:3}. {result.check}: {result.finding.what}: {result.finding.advice}"))
    return problems


def as_json(results: Iterable[Result], surroundings: Surroundings) -> str:
    """Format findings for machines."""
    findings = [{"group": result.group, "check": result.check, **result.finding._asdict()} for result in results]
    return json.dumps(
        {
            "host": surroundings.host,
            "lake": str(surroundings.lake.root),
            "problems": sum(finding["level"] == "problem" for finding in findings),
            "findings": findings,
        },
        indent=2,
    )
