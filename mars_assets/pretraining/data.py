"""Unlabelled images of Mars.

They are the lake's crops and whatever else a person names, as random crops of the model's size.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mars_assets.code_versions import UNLABELLED
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import kept_crops
from mars_assets.imagery.products import further_observations, observation_of
from mars_assets.images import is_picture, pictures_below, read_grey_or_rgb, read_stored
from mars_assets.labels.formats.image import original_name, picture_of
from mars_assets.labels.table import read_labelled_crops
from mars_assets.labels.zip_archive import open_export
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import explained_errors, printable, short_name, shown, write_bytes
from mars_assets.storage.hashing import fingerprint, lot, sha256_file
from mars_assets.training.memory import InMemory

_MASK = re.compile(
    r"[\W_](label|instance|annotation|segmentation|gt|ground[\W_]?truth)s?$"
    r"|(^|[\W_])masks?[\W_]*[0-9]*[\W_]*$|^masks?[\W_0-9]",
    re.IGNORECASE,
)
"""Ending of the name of a mask, or its beginning."""
_MASK_FOLDER = re.compile(
    r"masks?|labels?|annotations?|instances?|segmentation(class|object|s)?|gt|ground[\W_]?truth", re.IGNORECASE
)
_OF_MASKS = re.compile(r"(^|[\W_])masks?($|[\W_])", re.IGNORECASE)
"""In the name of the folder that an image lies in."""
_MOST_LABELS = 64
"""Most values in an image that is taken for a label image."""


@dataclass(frozen=True)
class Unlabelled:
    """Images to pretrain on.

    Args:
        images: ``image_id``, ``group`` (observation, or the image itself) and ``path``.
        sha: names the images: their ids and their content.
        left_out: how many were left out since models are evaluated on their observation.
        unknown: how many of the images are of no known observation, so that nothing can tell whether a model will be
            evaluated on theirs.
        broken: why, by id, of the further images that cannot be read or are masks, and were left out.
    """

    images: pd.DataFrame
    sha: str
    left_out: int
    unknown: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def group_of(relative: PurePath) -> tuple[str, bool]:
    """Name what must not straddle the splits of an image.

    It is its observation if that is known, which the second value says.

    Args:
        relative: its path in the folder or zip.

    Returns:
        The observation in its name, or in that of the nearest folder that has one. Else the whole path,
        with the uploaded name in the place of Roboflow's: images of the same name in two folders are two images.
    """
    for part in reversed(relative.parts):
        if observation := observation_of(part):
            return observation, True
    return relative.with_name(_picture(relative)).as_posix(), False


def _picture(relative: PurePath) -> str:
    """Name the picture as labels do, which know no folders."""
    return picture_of(original_name(relative.name))


def unlabelled_images(lake: Lake, extra: Path | None = None, progress: Progress = SILENT) -> Unlabelled:
    """List all images that may be pretrained on, in the order of their ids.

    Observations that the labels have in valid or test are left out: a model that saw their pixels would be evaluated on
    them. An image whose name holds such an observation's id in another place or form is left out as well, and an image
    of no known observation where an image of its name is in valid or test. Further images that are masks or cannot be
    read are left out too.

    Args:
        lake: its kept crops are taken.
        extra: a folder or zip of further images; a zip is taken apart into ``imagery/unlabelled/``.
        progress: of the further images, each of which is read once.

    Raises:
        MarsError: there is no image at all, or ``extra`` is neither folder nor zip, or a zip that cannot be used.
    """
    crops = kept_crops(lake).assign(original="")
    rows: list[tuple[Any, ...]] = list(
        crops[["crop_id", "observation", "original", "path", "cut"]].itertuples(index=False, name=None)
    )
    broken: dict[str, str] = {}
    if extra is not None:
        further = _further(lake, extra)
        broken = {
            shown(name.as_posix()): f"{shown(name.as_posix())} is a mask by its name: rename it if it is a picture"
            for name in further
            if _is_mask(name)
        }
        pictures = {path: name for name, path in further.items() if shown(name.as_posix()) not in broken}
        for path, (sha, problem) in _looked_at(lake, list(pictures), progress).items():
            relative = pictures[path]
            image_id = shown(relative.as_posix())
            if problem:
                broken[image_id] = problem
                continue
            group, known = group_of(relative)
            rows.append((image_id, shown(group), "" if known else shown(_picture(relative)), path, sha))
    if not rows:
        raise MarsError(
            "there is no image to pretrain on: make 'crops', or name a folder or zip of images in the configuration"
            + (f". None of its {len(broken)} images can be read: {next(iter(broken.values()))}" if broken else "")
        )
    columns = ["image_id", "group", "name", "path", "stamp"]
    images = pd.DataFrame(rows, columns=columns).drop_duplicates("image_id")
    evaluated = _evaluated_groups(lake)
    is_evaluated = images["group"].isin(evaluated) | images["name"].isin(evaluated)
    is_evaluated |= images["image_id"].map(lambda name: bool(evaluated & further_observations(PurePath(name))))
    kept = images[~is_evaluated].sort_values("image_id", ignore_index=True)
    if kept.empty:
        raise MarsError(
            f"all {len(images)} images are of observations that the labels have in valid or test: add others"
        )
    sha = fingerprint(kept["image_id"].tolist(), kept.pop("stamp").tolist())
    unknown = int((kept.pop("name") != "").sum())
    return Unlabelled(kept, sha, len(images) - len(kept), unknown, broken)


def _evaluated_groups(lake: Lake) -> set[str]:
    if not lake.labelled_crops.exists():
        return set()
    labels = read_labelled_crops(lake, ["group", "split"])
    return set(labels.loc[labels["split"] != "train", "group"])


def _looked_at(lake: Lake, paths: list[Path], progress: Progress) -> dict[Path, list[str]]:
    """Compute the sha256 of each picture, and why it cannot be used.

    The reason is empty where it can.

    That a picture cannot be used is better known before a training than in the middle of it. Files that have been
    looked at are known by path, size and time of change, and not read again.
    """

    def look(places: list[int]) -> Iterator[list[str]]:
        for place in progress.track(places, "looking at further images"):
            try:
                read_pixels(paths[place])
                if _shows_labels(paths[place]):
                    raise DamagedFileError(
                        f"{paths[place]} has few values in large patches: it is a mask or label image"
                    )
                yield [sha256_file(paths[place]), ""]
            except DamagedFileError as error:  # a file that may not be read has no sha256 either
                yield ["", printable(str(error))]

    with Cache(lake.cache("unlabelled"), UNLABELLED, keep_all=True, progress=progress) as cache:
        keys = [[os.path.realpath(path), _stamp(path)] for path in paths]
        return dict(zip(paths, cache.get_all(keys, look), strict=True))


def _stamp(path: Path) -> str:
    """Name a file's size and time of change; empty for a link to nothing."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _further(lake: Lake, extra: Path) -> dict[PurePath, Path]:
    """Map the path of each further image, in the folder or zip, to its file."""
    if extra.is_dir():
        return {path.relative_to(extra): path for path in pictures_below(extra)}
    if not extra.is_file():
        raise MarsError(f"there is no folder and no zip {extra}: correct the path")
    folder = lake.unlabelled(sha256_file(extra))
    with open_export(extra) as archive:
        further = {name: _unpacked(folder, name) for name in map(PurePath, sorted(archive.names)) if is_picture(name)}
        folders = {parent for name in archive.names for parent in PurePath(name).parents}
        if both := sorted(map(str, folders & further.keys())):
            raise DamagedFileError(f"{extra} has {both[0]!r} as a file and as a folder: rename one, and pack it again")
        for relative, path in further.items():
            with explained_errors(path):
                if not path.exists():
                    write_bytes(path, archive.read(relative.as_posix()))
    return further


def _unpacked(folder: Path, name: PurePath) -> Path:
    return folder / name.with_name(short_name(name.name))


def _is_mask(relative: PurePath) -> bool:
    """Test whether a name or a folder's says that an image is a mask."""
    names = relative.stem, _picture(relative)  # Roboflow puts "_mask" after its hash
    named = any(map(_MASK.search, names)) or _OF_MASKS.search(relative.parent.name)
    return bool(named) or any(map(_MASK_FOLDER.fullmatch, relative.parts[:-1]))


def _shows_labels(path: Path) -> bool:
    """Test whether an image's stored values form patches of few values.

    Those of a label image do, and of no photograph. A JPEG is none: its compression blurs the patches. An image of a
    single value counts as a photograph.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return False
    values = read_stored(path, "remove or repair it")
    values = values.reshape(*values.shape[:2], -1)
    same = (values[:, 1:] == values[:, :-1]).all(axis=2)
    if np.count_nonzero(same) < 0.9 * same.size:
        return False
    return 1 < len(np.unique(values.reshape(-1, values.shape[2]), axis=0)) <= _MOST_LABELS


def split_groups(images: pd.DataFrame, hold_out: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Split images by group into those to train on and those held out.

    No observation is in both. The results are positions.

    A group's own name decides, so that further images move none. Where chance holds out none or all, one group changes
    side.
    """
    groups = images["group"].unique()
    draws = {group: lot(str(group)) for group in groups}
    held = {group for group, draw in draws.items() if draw < hold_out}
    if not held:
        held = {min(draws, key=lambda group: draws[group])}
    if len(held) == len(groups):
        if len(groups) == 1:
            raise MarsError("all images are of one observation: pretraining needs another to validate on")
        held.discard(max(draws, key=lambda group: draws[group]))
    mask = images["group"].isin(held).to_numpy()
    return np.flatnonzero(~mask), np.flatnonzero(mask)


class RandomCrops:
    """Square crops of images, turned and mirrored.

    Each is a function of the seed, the step and the image.

    Args:
        paths: image files.
        size: of the crops, pixels.
        smallest_scale: of a crop before resampling, as part of the image's shorter side.
        seed: of all choices.
        memory_gb: how many decoded images may be retained.
    """

    def __init__(self, paths: list[Path], size: int, smallest_scale: float, seed: int, memory_gb: float = 2.0) -> None:
        self._paths, self._size, self._smallest, self._seed = paths, size, smallest_scale, seed
        self._pixels = InMemory(read_pixels, paths, memory_gb)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        """Cut the crop of an image: uint8 (3, size, size), R, G, B.

        The key is the image's position and the step that wants it.
        """
        index, step = place
        pixels = self._pixels[index]
        rng = np.random.default_rng([self._seed, step, index])
        shorter = min(pixels.shape[:2])
        side = max(1, round(shorter * rng.uniform(self._smallest, 1)))
        top, left = (int(rng.integers(0, edge - side + 1)) for edge in pixels.shape[:2])
        crop = np.rot90(pixels[top : top + side, left : left + side], int(rng.integers(4)))
        return resample(crop[:, ::-1] if rng.integers(2) else crop, self._size)

    def centre(self, index: int) -> Tensor:
        """Cut the largest square in the middle of an image, unturned.

        Returns uint8 (3, size, size).
        """
        pixels = self._pixels[index]
        side = min(pixels.shape[:2])
        top, left = ((edge - side) // 2 for edge in pixels.shape[:2])
        return resample(pixels[top : top + side, left : left + side], self._size)


def read_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image to pretrain on, uint8 (H, W, 1 or 3).

    16 bits are reduced to the upper 8, see :func:`mars_assets.images.read_grey_or_rgb`.

    Raises:
        DamagedFileError: it cannot be decoded.
    """
    return read_grey_or_rgb(path, sixteen_bits="scale")


def resample(pixels: npt.NDArray[np.uint8], size: int) -> Tensor:
    """uint8 (H, H, 1 or 3) to uint8 (3, size, size), bilinear, antialiased."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if image.shape[1] != size:
        scaled = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True)[0]
        image = scaled.round().clamp(0, 255).to(torch.uint8)
    return image.expand(3, -1, -1)
