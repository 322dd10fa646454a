"""The mapped craters against the catalogues that a user put into the lake."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mars_assets.code_versions import COMPARISON
from mars_assets.craters.agreement import compare_lists
from mars_assets.craters.agreement_files import write_comparison
from mars_assets.craters.catalogue import Catalogue
from mars_assets.craters.catalogues.columns import beside
from mars_assets.craters.catalogues.crater_list import DEGREES, Area, Counted, CraterList, crater_table
from mars_assets.craters.catalogues.formats import READERS
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.lake import COMPARISON_ROWS, COMPARISON_SUMMARY, MATCHES, PROVENANCE, Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json, short_name, shown, write_csv, write_table
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.storage.published import version_in_use

TABLE = "catalogue_comparison"
_TEXTS = ("value", "against", "image", "terrain")
_PARTS = (
    ".shx",
    ".dbf",
    ".prj",
    ".cpg",
    ".sbn",
    ".sbx",
    ".qpj",
    ".qmd",
    ".qml",
    ".qix",
    ".xml",
    ".gpkg-wal",
    ".gpkg-shm",
)
"""Files that other programs write beside a catalogue."""


@dataclass(frozen=True)
class CatalogueComparison:
    """The comparisons with all catalogues of the lake.

    Args:
        folders: the files of each, by its name.
        rows: scores of all, with the column ``catalogue``.
        key: fingerprint of everything that was compared.
        computed: how many were not known before.
        problems: what could not be compared, and why.
        ignored: files of the folder that are no catalogues.
    """

    folders: Mapping[str, Path]
    rows: pd.DataFrame
    key: str
    computed: int
    problems: list[str]
    ignored: list[str]


@dataclass(frozen=True)
class _Wanted:
    """A comparison to make: its name, what it is made from, and how."""

    name: str
    key: str
    ours: Callable[[], CraterList]
    theirs: CraterList


def compare_catalogues(lake: Lake, ours: Callable[[], Catalogue], progress: Progress = SILENT) -> CatalogueComparison:
    """Compare all catalogues in ``lake.catalogues``.

    Those on the ground are compared with the catalogue of all scenes, those in pixels with the maps of the images that
    they name. What was compared before, and has not changed, is left as it is.

    Args:
        lake: has the catalogues, and the maps.
        ours: reads the catalogue of all scenes. It is not called if nothing is compared with it.
        progress: reports each comparison.

    Returns:
        The results; ``problems`` has every catalogue that could not be compared.
    """
    files, ignored = _files(lake.catalogues)
    opened: list[Catalogue] = []

    def catalogue() -> Catalogue:
        if not opened:
            opened.append(ours())
        return opened[0]

    folders: dict[str, Path] = {}
    problems, keys, computed = [], [], 0
    for path in files:
        try:
            for wanted in _wanted(lake, path, catalogue):
                folder = lake.catalogue_comparison(short_name(shown(wanted.name)))
                if _key(folder) != wanted.key:
                    progress.say(f"comparing with {wanted.name}")
                    agreement = compare_lists(wanted.ours(), wanted.theirs)
                    write_comparison(agreement, folder, wanted.key)
                    computed += 1
                folders[wanted.name] = folder
                keys.append(wanted.key)
        except MarsError as error:
            problems.append(str(error))
    if lake.catalogue_comparisons.exists():
        for old in set(lake.catalogue_comparisons.iterdir()) - set(folders.values()):
            shutil.rmtree(old)
    rows = _joined(folders, COMPARISON_ROWS)
    write_table(lake.metrics(TABLE), rows)
    write_csv(lake.metrics(TABLE, ".csv"), rows)
    write_table(lake.metrics(f"{TABLE}_matches"), _joined(folders, MATCHES))
    return CatalogueComparison(folders, rows, fingerprint(keys), computed, list(dict.fromkeys(problems)), ignored)


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """List the catalogues in a folder, and what else there is."""
    catalogues: list[Path] = []
    ignored: list[str] = []
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    for path in entries:
        suffix = path.suffix.lower()
        is_catalogue = suffix in READERS and path.is_file()
        if path.name.endswith("_AREA.shp") and path.with_name(path.name.replace("_AREA", "_CRATER")) in entries:
            continue
        if is_catalogue:
            catalogues.append(path)
        elif suffix not in _PARTS and not any(beside(other) == path for other in entries if other.suffix in READERS):
            ignored.append(shown(path.name))
    return catalogues, ignored


def _wanted(lake: Lake, path: Path, catalogue: Callable[[], Catalogue]) -> Iterator[_Wanted]:
    """Yield the comparisons to make with a file.

    Raises:
        MarsError: it cannot be read, or is in the pixels of images that were not mapped.
    """
    theirs = read_craters(path)
    content = _content(path)
    if theirs.has_ground:
        scenes = catalogue().scenes
        about = [COMPARISON, content, [(scene.key, scene.smallest_m, scene.counted_m2) for scene in scenes]]
        yield _Wanted(shown(path.name), fingerprint(about), lambda: listed(catalogue()), theirs)
        return
    maps = _maps(lake)
    images = sorted(set(theirs.craters["image"]))
    if missing := [image or "an image that it does not name" for image in images if image not in maps]:
        raise MarsError(
            f"{shown(path)} is in the pixels of {', '.join(missing)}, of which the lake has no crater map: state "
            f"columns: {{image: ...}}, the column with observations, in {beside(path).name}, and materialize "
            "'crater_maps'"
        )
    for image in images:
        about = [COMPARISON, content, read_json(maps[image] / PROVENANCE)["key"], image]
        some = replace(theirs, craters=theirs.craters[theirs.craters["image"] == image])
        yield _Wanted(f"{shown(path.name)} {image}", fingerprint(about), partial(read_craters, maps[image]), some)


def listed(catalogue: Catalogue) -> CraterList:
    """Convert the catalogue of all scenes."""
    columns: dict[str, object] = {
        name: catalogue.craters[name].to_numpy(np.float64)
        for name in ("longitude", "latitude", "diameter_m", "probability", "confidence")
    }
    counted = [Counted(Area(scene.counted, DEGREES), smallest_m=scene.smallest_m) for scene in catalogue.scenes]
    return CraterList("the crater catalogue", crater_table(columns, len(catalogue.craters)), counted)


def _maps(lake: Lake) -> dict[str, Path]:
    """Locate the finished maps, by observation and by name of the scene."""
    folders = sorted(lake.all_crater_maps.iterdir()) if lake.all_crater_maps.is_dir() else []
    versions = {folder.name: version_in_use(folder) for folder in folders if folder.is_dir()}
    finished = {name: version for name, version in versions.items() if (version / PROVENANCE).exists()}
    return {str(read_json(version / PROVENANCE)["scene"]): version for version in finished.values()} | finished


def _content(path: Path) -> list[str]:
    """Fingerprint a catalogue with everything beside it that is read."""
    stems = {path.stem, path.stem.replace("_CRATER", "_AREA")}
    read = [other for other in sorted(path.parent.iterdir()) if other.stem in stems and other.is_file()]
    return [name for other in read for name in (other.name, sha256_file(other))]


def _key(folder: Path) -> str | None:
    """Read what a finished comparison was made from; None if it is not there."""
    try:
        return str(read_json(folder / COMPARISON_SUMMARY)["key"])
    except (OSError, DamagedFileError, KeyError, TypeError):
        return None


def _joined(folders: Mapping[str, Path], file: str) -> pd.DataFrame:
    """Join the tables of all comparisons."""
    texts = dict.fromkeys(_TEXTS, str)
    tables = [
        pd.read_csv(folder / file, dtype=texts, keep_default_na=False, na_values=[""]).assign(catalogue=name)
        for name, folder in folders.items()
    ]
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"catalogue": pd.Series(dtype=str)})
    return joined.fillna({name: "" for name in _TEXTS if name in joined})
