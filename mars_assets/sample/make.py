"""The embedded sample.

It is an archive tree, label exports in an inbox, and a list of observations.

The labels are those of crops that the project's own code cuts from the archive's files, so that a lake recognises them
as its own crops.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mars_assets.craters.relief import Crater
from mars_assets.errors import MarsError
from mars_assets.imagery.crops import Source, cut_crops, read_crops
from mars_assets.imagery.products import parse_observation_id, product_files, read_observations_csv
from mars_assets.images import read_rgb
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.sample.exports import (
    SEGMENTATION_ZIP,
    SPLITS,
    TILES_ZIP,
    LabelledCrop,
    Split,
    write_segmentation_export,
    write_tiles_export,
)
from mars_assets.sample.index import write_index
from mars_assets.sample.products import FIRST_ORBIT, METRES, NOTE, MapPosition, swath, write_products
from mars_assets.sample.terrain import SceneSpec, draw_spec, reaches_into, render_scene
from mars_assets.storage.files import read_json, write_bytes, write_csv, write_json, write_table
from mars_assets.storage.published import version_in_use

VERSION = 2
"""Version of the sample, raised when the same seed yields different files."""

SEED = 2024
_GROUNDS = ("ripples", "boulders", "knobs", "channels")
MARKER = "sample.json"
GROUND_TRUTH = "ground_truth.parquet"

_README = f"""{NOTE}.

Everything below this folder was computed by mars_assets.sample. Terrain, craters and labels are invented; only the file
formats are those of HiRISE's archive. The observation ids are formally valid, but their orbits ({FIRST_ORBIT} and up)
were never flown. {GROUND_TRUTH} lists every crater: x and y in pixels of the COLOR product (x along samples), diameter
in pixels and metres, degradation from 0 (fresh) to 1.
"""


@dataclass(frozen=True)
class Plan:
    """The size of the sample.

    Args:
        train, valid, test: number of labelled scenes in each split.
        unlabelled: number of further scenes, listed with their browse product.
        height, width: size of a scene in pixels. The slanted margins take some of it: the default leaves 12 crops of
            512 pixels.
    """

    train: int = 7
    valid: int = 2
    test: int = 3
    unlabelled: int = 1
    height: int = 2688
    width: int = 2176

    @property
    def splits(self) -> tuple[Split | None, ...]:
        """List the split of every scene; None for a scene without labels."""
        counts = (self.train, self.valid, self.test)
        labelled = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
        return (*labelled, *[None] * self.unlabelled)


@dataclass(frozen=True)
class PlannedScene:
    """A scene to render.

    Args:
        spec: the scene.
        longitude: its assumed longitude in degrees east.
        split: split of its labels; None if it has none.
    """

    spec: SceneSpec
    longitude: float
    split: Split | None


def plan_scenes(seed: int, plan: Plan = Plan()) -> list[PlannedScene]:
    """Plan the scenes of the sample.

    Scenes share neither terrain nor random numbers. Kinds of ground are assigned in turn, two per scene, so that every
    split has all or most of them: seven training scenes drawn at random might contain no boulders, and then no model
    could learn to tell them from craters.
    """
    scenes = []
    for index, split in enumerate(plan.splits):
        rng = np.random.default_rng([seed, index])
        # On the day side, between 50 degrees south and north, with targets in steps of half a degree as in the archive.
        observation = f"ESP_{FIRST_ORBIT + 137 * (index + 1):06d}_{5 * int(rng.integers(260, 461)):04d}"
        spec = draw_spec(rng, observation, plan.height, plan.width)
        dealt = (_GROUNDS[index % len(_GROUNDS)], _GROUNDS[(index + 1) % len(_GROUNDS)])
        grounds: dict[str, Any] = {kind: float(rng.uniform(0.3, 1.0)) if kind in dealt else 0.0 for kind in _GROUNDS}
        # The few scenes must contain enough craters to learn from.
        spec = replace(spec, crater_density=1.5 * spec.crater_density, **grounds)
        scenes.append(PlannedScene(spec, float(rng.uniform(0, 359)), split))
    return scenes


def make_sample(lake: Lake, seed: int = SEED, plan: Plan = Plan(), progress: Progress = SILENT) -> bool:
    """Write the sample unless it exists already.

    Args:
        lake: gets an archive tree with the ground truth (``lake.sample``), two label exports in the inbox, and the
            list of observations (``observations.csv``).
        seed: seed of everything random in the sample.
        plan: size of the sample.
        progress: reports the scenes.

    Returns:
        Whether anything had to be computed.

    Raises:
        MarsError: ``observations.csv`` lists real observations, which would be lost.
    """
    archive = lake.sample
    made = {"version": VERSION, "seed": seed, "plan": asdict(plan)}
    outputs = [lake.inbox / SEGMENTATION_ZIP, lake.inbox / TILES_ZIP, lake.observations_csv, archive / GROUND_TRUTH]
    marker = archive / MARKER
    if marker.exists() and read_json(marker) == made and all(path.exists() for path in outputs):
        progress.say(f"the sample exists: {archive}")
        return False
    _refuse_real_observations(lake.observations_csv)
    marker.unlink(missing_ok=True)
    write_bytes(archive / "SYNTHETIC.txt", _README.encode())
    scenes = plan_scenes(seed, plan)
    with tempfile.TemporaryDirectory(prefix="mars-sample-") as scratch:
        truths = _make_scenes(archive, Path(scratch), scenes, progress)
        crops = [
            crop
            for scene, craters in zip(scenes, truths, strict=True)
            if scene.split is not None
            for crop in _labelled_crops(Path(scratch) / scene.spec.observation, scene.split, craters)
        ]
    write_index(archive, [(scene.spec, scene.longitude) for scene in scenes])
    write_segmentation_export(lake.inbox / SEGMENTATION_ZIP, crops)
    write_tiles_export(lake.inbox / TILES_ZIP, crops, seed)
    write_table(archive / GROUND_TRUTH, _ground_truth(scenes, truths), made)
    listed = {
        "id": [scene.spec.observation for scene in scenes],
        "product": ["RGB.NOMAP.browse" if scene.split is None else "COLOR" for scene in scenes],
        "note": [f"SYNTHETIC terrain, {scene.split or 'unlabelled'}" for scene in scenes],
    }
    write_csv(lake.observations_csv, pd.DataFrame(listed))
    write_json(marker, made)
    return True


def _make_scenes(
    archive: Path, scratch: Path, scenes: Sequence[PlannedScene], progress: Progress
) -> list[list[Crater]]:
    """Render, store and cut the scenes in parallel; return the craters of each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Spawned, since a fork would break any threads of the calling process.
    with ProcessPoolExecutor(min(len(scenes), cores), mp_context=multiprocessing.get_context("spawn")) as pool:
        results = pool.map(_make_scene, [archive] * len(scenes), [scratch] * len(scenes), scenes)
        return list(progress.track(results, "making synthetic scenes", len(scenes)))


def _make_scene(archive: Path, scratch: Path, planned: PlannedScene) -> list[Crater]:
    scene = render_scene(planned.spec)
    write_products(archive, scene, planned.longitude)
    if planned.split is not None:
        observation = planned.spec.observation
        files = product_files(observation, "COLOR")
        assert files.label is not None
        cut_crops(Source(archive / files.image, archive / files.label, observation, "COLOR"), scratch / observation)
    return scene.craters


def _labelled_crops(folder: Path, split: Split, craters: Sequence[Crater]) -> list[LabelledCrop]:
    version = version_in_use(folder)
    manifest = read_crops(version)
    crops = []
    for row in manifest[manifest["kept"]].to_dict("records"):
        pixels = read_rgb(version / row["file"])
        height, width = pixels.shape[:2]
        moved = [replace(crater, x=crater.x - row["col"], y=crater.y - row["row"]) for crater in craters]
        near = tuple(crater for crater in moved if reaches_into(crater, height, width))
        crops.append(LabelledCrop(row["crop_id"], split, pixels, near))
    return crops


def _ground_truth(scenes: Sequence[PlannedScene], truths: Sequence[Sequence[Crater]]) -> pd.DataFrame:
    """List all craters centred in the COLOR product.

    Positions are in pixels and in planetocentric degrees east, diameters in pixels and metres.
    """
    rows: list[dict[str, Any]] = []
    for scene, craters in zip(scenes, truths, strict=True):
        spec = scene.spec
        position = MapPosition.of_observation(spec.observation, scene.longitude)
        valid = swath(spec.height, spec.width)
        rows += [
            {
                "observation": spec.observation,
                "split": scene.split,
                **asdict(crater),
                "diameter_m": crater.diameter * METRES,
                "latitude": position.latitude(crater.y),
                "longitude": position.longitude(crater.x),
            }
            for crater in craters
            if 0 <= crater.x < spec.width and 0 <= crater.y < spec.height and valid[int(crater.y), int(crater.x)]
        ]
    return pd.DataFrame(rows)


def _refuse_real_observations(path: Path) -> None:
    known = list(read_observations_csv(path)["observation"]) if path.exists() else []
    if real := [name for name in known if parse_observation_id(name).orbit < FIRST_ORBIT]:
        raise MarsError(
            f"{path} lists real observations ({', '.join(real[:3])}), and the sample would replace it: "
            "move the file away, or write the sample to another lake (MARS_LAKE)"
        )
