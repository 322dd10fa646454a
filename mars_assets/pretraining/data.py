"""Unlabelled images of Mars: the lake's crops and whatever else a person names, as random crops of the model's size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mars_assets.bands import BandStatistics, ImputationMethod
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import kept_crops
from mars_assets.imagery.products import observation_of
from mars_assets.labels.archives import open_export
from mars_assets.labels.formats.image import original_name
from mars_assets.lake import Lake, fingerprint, lot, read_table, sha256_file, write_bytes
from mars_assets.pictures import is_picture, pictures_below
from mars_assets.steps import BatchesOfSteps

if TYPE_CHECKING:
    import pandas as pd

Place = tuple[int, int]
"""An image's position in the table, and the step that wants it."""


@dataclass(frozen=True)
class Unlabelled:
    """Images to pretrain on.

    Args:
        images: ``image_id``, ``group`` (observation, or the image itself) and ``path``.
        sha: names the images.
        left_out: how many were left out since a model will be judged on their observation.
    """

    images: pd.DataFrame
    sha: str
    left_out: int


def unlabelled_images(lake: Lake, extra: Path | None = None) -> Unlabelled:
    """All images that may be pretrained on, in the order of their ids.

    Observations that the labels have in valid or test are left out: a model that saw their pixels would be judged on them.

    Args:
        lake: its kept crops are taken.
        extra: a folder or zip of further images; a zip is taken apart into ``imagery/unlabelled/``.

    Raises:
        MarsError: there is no image at all, or ``extra`` is neither folder nor zip.
    """
    import pandas as pd

    rows = [(row.crop_id, row.observation, row.path, row.cut) for row in kept_crops(lake).itertuples()]
    if extra is not None:
        folder, source = _opened(lake, extra)
        for path in pictures_below(folder):
            group = observation_of(path.name) or original_name(path.name)
            rows.append((path.relative_to(folder).as_posix(), group, path, source or _stamp(path)))
    if not rows:
        raise MarsError(
            "there is no image to pretrain on: make 'crops', or name a folder or zip of images in the configuration"
        )
    images = pd.DataFrame(rows, columns=["image_id", "group", "path", "stamp"]).drop_duplicates("image_id")
    judged = _judged_groups(lake)
    kept = images[~images["group"].isin(judged)].sort_values("image_id", ignore_index=True)
    if kept.empty:
        raise MarsError(
            f"all {len(images)} images are of observations that the labels have in valid or test: add others"
        )
    sha = fingerprint(kept["image_id"].tolist(), kept.pop("stamp").tolist())
    return Unlabelled(kept, sha, len(images) - len(kept))


def _judged_groups(lake: Lake) -> set[str]:
    if not lake.labelled_crops.exists():
        return set()
    labels = read_table(lake.labelled_crops, "labelled_crops", ["group", "split"])
    return set(labels.loc[labels["split"] != "train", "group"])


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _opened(lake: Lake, extra: Path) -> tuple[Path, str]:
    """The folder of the further images, and what names its content: nothing, if that is looked at file by file."""
    if extra.is_dir():
        return extra, ""
    if not extra.is_file():
        raise MarsError(f"there is no folder and no zip {extra}")
    sha = sha256_file(extra)
    folder = lake.root / "imagery" / "unlabelled" / sha[:16]
    done = folder / ".complete"
    if not done.exists():
        with open_export(extra) as archive:
            for name in archive.names:
                if is_picture(Path(name)):
                    write_bytes(folder / name, archive.read(name))
        write_bytes(done, b"")
    return folder, sha


def split_groups(images: pd.DataFrame, hold_out: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of the images to train on and of those held out, by group, so that no observation is in both.

    A group's own name decides, so that further images move none. Where chance holds out none or all, one group changes side.
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


class RandomCrops(torch.utils.data.Dataset[Tensor]):
    """Square crops of images, turned and mirrored, each a function of the seed, the step and the image.

    Args:
        paths: image files.
        size: of the crops, pixels.
        smallest_scale: of a crop before resampling, as part of the image's shorter side.
        seed: of all choices.
        memory_gb: how many decoded images may be kept.
    """

    def __init__(self, paths: list[Path], size: int, smallest_scale: float, seed: int, memory_gb: float = 2.0) -> None:
        self._paths, self._size, self._smallest, self._seed = paths, size, smallest_scale, seed
        self._room = int(memory_gb * 1e9)
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: Place) -> Tensor:
        """uint8 (3, size, size), R, G, B."""
        index, step = place
        pixels = self._pixels(index)
        rng = np.random.default_rng([self._seed, step, index])
        shorter = min(pixels.shape[:2])
        side = max(1, round(shorter * rng.uniform(self._smallest, 1)))
        top, left = (int(rng.integers(0, edge - side + 1)) for edge in pixels.shape[:2])
        crop = np.rot90(pixels[top : top + side, left : left + side], int(rng.integers(4)))
        return resample(crop[:, ::-1] if rng.integers(2) else crop, self._size)

    def centre(self, index: int) -> Tensor:
        """The largest square in the middle of an image, unturned: uint8 (3, size, size)."""
        pixels = self._pixels(index)
        side = min(pixels.shape[:2])
        top, left = ((edge - side) // 2 for edge in pixels.shape[:2])
        return resample(pixels[top : top + side, left : left + side], self._size)

    def _pixels(self, index: int) -> npt.NDArray[np.uint8]:
        if index in self._kept:
            return self._kept[index]
        pixels = read_pixels(self._paths[index])
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[index] = pixels
        return pixels


def read_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 1 or 3): grey images stay grey, which takes a third of the memory.

    Raises:
        DamagedFileError: it does not decode.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=("JPEG", "PNG")) as image:
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8 and not scale
                return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)[..., None]
            grey = image.mode in ("L", "1")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedFileError(f"{path} cannot be decoded ({error}): take it away or mend it") from error
    return pixels[..., None] if grey else pixels


def resample(pixels: npt.NDArray[np.uint8], size: int) -> Tensor:
    """uint8 (H, H, 1 or 3) to uint8 (3, size, size), bilinear, antialiased."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if image.shape[1] != size:
        scaled = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True)[0]
        image = scaled.round().clamp(0, 255).to(torch.uint8)
    return image.expand(3, -1, -1)


class StepBatches(torch.utils.data.Sampler[list[Place]]):
    """One process's share of the batches of :class:`BatchesOfSteps`, every image with the number of its batch."""

    def __init__(self, n: int, batch_size: int, batches: range, seed: int, rank: int, world_size: int) -> None:
        self._batches = BatchesOfSteps(n, batch_size, batches, seed)
        self._numbers, self._rank, self._world_size = batches, rank, world_size

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Place]]:
        for number, batch in zip(self._numbers, self._batches, strict=True):
            yield [(index, number) for index in batch[self._rank :: self._world_size]]


def model_input(rgb: Tensor, method: ImputationMethod, statistics: BandStatistics) -> Tensor:
    """8-bit RGB to the normalised six bands of an imputation method, as ``bands`` makes and normalises them.

    Args:
        rgb: (B, 3, H, W), R, G, B, 0..255.
        method: how the other three bands are filled.
        statistics: of the weights.

    Returns:
        float32 (B, 6, H, W).
    """
    mean, std, white = (
        torch.from_numpy(values).to(rgb.device) for values in (statistics.mean, statistics.std, statistics.white)
    )
    bgr = rgb.flip(1).float() * (white / 255)
    visible = (bgr - mean[:3]) / std[:3]
    if method == "means":
        rest = torch.zeros_like(visible)
    elif method == "post_norm":
        rest = visible
    else:
        rest = (bgr - mean[3:]) / std[3:]
    return torch.cat([visible, rest], dim=1)
