"""The meaning of the class names in exports.

Names are compared without case, accents, separators and blanks around them. What is not known here is stated by the
user in the lake's ``class_names.csv``.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mars_assets.errors import MarsError
from mars_assets.storage.files import read_rows, shown
from mars_assets.storage.hashing import fingerprint

Meaning = Literal["crater", "no_crater", "other"]
"""``other`` is anything that says nothing about craters; an image may show craters beside it."""

_MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
_COLUMNS = ("project", "class", "meaning")
_EXAMPLE = "project,class,meaning\nmars-craters,impact feature,crater\n,boulder,other"
_CRATER = (
    *("crater", "craters", "impact crater", "impact craters", "krater", "kraters", "cratere", "crateres", "crateri"),
    *("cratera", "crateras", "кратер", "кратеры", "陨石坑", "撞击坑", "环形山", "クレーター", "크레이터"),
)
_NO_CRATER = ("background", "negative", "negatives", "no", "none")
_NEGATION = re.compile(r"(?:non|not|without|no)\s?(?:a\s?)?(?P<name>.+)")
_MARKS = re.compile("[?!~+*=\N{NOT SIGN}]|^[-\N{MINUS SIGN}]|[-\N{MINUS SIGN}]$")
"""What changes a name's meaning, as in ``crater?``, ``!crater`` and ``crater-``."""


def normalized(name: str) -> str:
    """Reduce a class name to what distinguishes it."""
    letters = "".join(part for part in unicodedata.normalize("NFKD", name.strip()) if not unicodedata.combining(part))
    words = re.sub(r"[\W_]+", " ", letters.casefold()).split()
    return " ".join([*words, *_MARKS.findall(letters)]) or letters


@functools.cache
def _known() -> dict[str, Meaning]:
    known: dict[str, Meaning] = dict.fromkeys(map(normalized, _NO_CRATER), "no_crater")
    return known | dict.fromkeys(map(normalized, _CRATER), "crater")


@dataclass(frozen=True)
class ClassNames:
    """Class names with their meanings.

    Args:
        stated: meanings that the user stated, by project and normalised name; the project is empty for all projects.
        project: the project whose names are looked up.
    """

    stated: Mapping[tuple[str, str], Meaning] = field(default_factory=dict)
    project: str = ""

    def meaning(self, name: str) -> Meaning | None:
        """Look up what a name means; None if that is not known."""
        plain = normalized(name)
        for project in (self.project, ""):
            if (project, plain) in self.stated:
                return self.stated[project, plain]
        negated = _NEGATION.fullmatch(plain)
        if negated and _known().get(negated["name"]) == "crater":
            return "no_crater"
        return _known().get(plain)

    def of(self, project: str) -> ClassNames:
        """Select the names of a project."""
        return ClassNames(self.stated, project)

    @property
    def key(self) -> list[str]:
        """A fingerprint of what was stated, as a list; empty if nothing was."""
        return [fingerprint(sorted([*names, meaning] for names, meaning in self.stated.items()))] if self.stated else []


NOTHING_STATED = ClassNames()


def read_class_names(path: Path) -> ClassNames:
    """Read the meanings that a user stated.

    The file is a CSV with the columns ``project`` (as in its address; empty for all projects), ``class`` and
    ``meaning``. It may be missing.

    Raises:
        MarsError: the file cannot be read, or has bad rows: all of them in one message, with their line numbers.
    """
    if not path.exists():
        return NOTHING_STATED
    stated: dict[tuple[str, str], Meaning] = {}
    problems = []
    rows = read_rows(path)
    if not rows or [cell.casefold() for cell in rows[0][1]] != list(_COLUMNS):
        raise MarsError(f"{path}: the first line must be {','.join(_COLUMNS)}. For example:\n{_EXAMPLE}")
    for line, row in rows[1:]:
        project, name, said = (*row, "", "", "")[:3]
        key = project_slug(project) if project else "", normalized(name)
        meaning = next((known for known in _MEANINGS if known == said), None)
        if len(row) != len(_COLUMNS) or meaning is None or not any(key):
            problems.append(f"line {line}: {','.join(row)}")
        elif stated.get(key, meaning) != meaning:
            problems.append(f"line {line}: {name!r} already means {stated[key]}")
        else:
            stated[key] = meaning
    if problems:
        raise MarsError(
            f"{path} has {len(problems)} bad rows. Each needs a project or nothing, a class, and one of "
            f"{', '.join(_MEANINGS)}:\n" + "\n".join(problems)
        )
    return ClassNames(stated)


def how_to_state(path: Path, project: str, name: str, images: int) -> str:
    """Say what to do about a class whose meaning is not known.

    Args:
        path: the file in which the user states meanings.
        project: whose export has the class.
        name: the class.
        images: how many images have it.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([project, name.strip(), "crater"])
    return (
        f"{project}: {images} images with the class {name!r} are left out, since it is not known whether it means "
        f"crater, no_crater or other: state it in {path}, whose first line is {','.join(_COLUMNS)}, for example "
        f"{line.getvalue()}"
    )


def project_slug(name: str) -> str:
    """Convert a project's title to its address: "Mars Craters" to "mars-craters"."""
    return re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", name).casefold()).strip("-") or shown(name)
