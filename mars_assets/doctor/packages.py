"""Checks of the installed packages against what the project asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mars_assets.doctor.findings import Check, Finding, Surroundings, note, ok, problem

_PROJECT = "mars-assets"
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_MOST_NAMED = 5


def installed() -> dict[str, set[str]]:
    """List the versions of all packages, each of which should have one."""
    found: dict[str, set[str]] = defaultdict(set)
    for one in _in_use(distributions()):
        found[canonicalize_name(one.name)].add(one.version)
    return found


def _in_use(found: Iterable[Distribution]) -> Iterator[Distribution]:
    # One that was removed halfway has no metadata left.
    return (one for one in found if one.metadata and one.metadata["Name"])


def requirements(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that versions are within the project's bounds."""
    try:
        wanted = [Requirement(text) for text in requires(_PROJECT) or ()]
    except PackageNotFoundError:
        yield note(f"{_PROJECT} is not installed, so its bounds are not known", "install it, as make .venv does")
        return
    yield from within_bounds(wanted, installed())


def within_bounds(wanted: Iterable[Requirement], found: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Compare installed versions with requirements.

    Args:
        wanted: the requirements, of which those of extras are left out.
        found: the installed versions, by the names of packages.
    """
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    bad = []
    for one in wanted:
        versions = found.get(canonicalize_name(one.name), set())
        if not versions:
            bad.append(f"{one.name} is missing")
        bad += [f"{one.name} {has} is not {one.specifier}" for has in versions if not one.specifier.contains(has, True)]
    if bad:
        yield problem("; ".join(bad), "run make .venv again, or install what is named")
    else:
        yield ok(f"{len(wanted)} packages are within the bounds of pyproject.toml")


def constraints(surroundings: Surroundings) -> Iterator[Finding]:
    """Compare versions with those that the project was tested with."""
    path = surroundings.project / "constraints.txt"
    if not path.is_file():
        yield note(f"{path} does not exist, so tested versions are not known", "run the command from a clone")
        return
    yield from as_tested(path.read_text(), installed())


def as_tested(constraints: str, found: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Compare installed versions with constraints.

    Args:
        constraints: the file's content.
        found: the installed versions, by the names of packages.
    """
    lines = [line for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    pinned = {canonicalize_name(name): version.strip() for name, _, version in (line.partition("==") for line in lines)}
    both = {name: pinned[name] for name in sorted(pinned) if name in found}
    other = [
        f"{name} {', '.join(sorted(found[name]))} ({version})"
        for name, version in both.items()
        # A local version, such as 2.6.0+cu124, is a build of the same.
        if version not in {has.partition("+")[0] for has in found[name]} | found[name]
    ]
    if not other:
        yield ok(f"{len(both)} packages have the tested versions")
        return
    named = ", ".join(other[:_MOST_NAMED]) + (" ..." if len(other) > _MOST_NAMED else "")
    yield note(
        f"{len(other)} of {len(both)} packages differ from constraints.txt: {named}",
        "run make .venv again if something fails",
    )


def duplicates(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that no package is installed twice, nor two builds of OpenCV."""
    yield from installed_once(installed())


def installed_once(found: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Look for packages of several versions.

    Args:
        found: the installed versions, by the names of packages.
    """
    twice = sorted(f"{name} ({', '.join(sorted(versions))})" for name, versions in found.items() if len(versions) > 1)
    opencv = {name: ", ".join(sorted(found[name])) for name in _OPENCV if name in found}
    if twice:
        yield problem(f"several versions are installed: {', '.join(twice)}", "make the environment anew (make .venv)")
    if len(set(opencv.values())) > 1:
        yield problem(
            f"builds of OpenCV overwrite each other: {', '.join(f'{name} {has}' for name, has in opencv.items())}",
            "install the same version of both, the headless one last, as make .venv does",
        )
    if not twice and len(set(opencv.values())) <= 1:
        yield ok("each package is installed once")


CHECKS: tuple[Check, ...] = (requirements, constraints, duplicates)
