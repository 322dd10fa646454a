"""A finished segmentation model as the network that slides over a scene."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mars_assets.bands import EVALUATED, BandStatistics, Float32, model_input
from mars_assets.craters.levels import Mask, UInt8
from mars_assets.craters.scan import Network, Place
from mars_assets.errors import MarsError
from mars_assets.progress import SILENT, Progress
from mars_assets.segmentation.checkpoint import open_segmenter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mars_assets.training.compute import Compute

_BATCH = {"cpu": 4, "cuda": 16}
_WORKERS = 4
"""Threads at most that compute windows on a CPU at once: each needs memory for a batch."""


class SceneNetwork(Network):
    """A model as a :class:`mars_assets.craters.scan.Network`.

    Windows are converted as labelled images are. What shows no surface gets the window's mean. The margins are the mean
    over as many orientations as the model was evaluated with.

    Args:
        model: folder of a finished model.
        compute: device and precision.
        progress: reports smaller batches.
    """

    def __init__(self, model: Path, compute: Compute, progress: Progress = SILENT) -> None:
        import torch

        self.segmenter, config = open_segmenter(model)
        self.segmenter.to(compute.device)
        if compute.precision == "bf16":
            _cast_once(self.segmenter)
        self._compute, self._progress = compute, progress
        self._smaller = Lock()
        matrix, offset = _affine(BandStatistics.from_dict(config["statistics"]))
        self._matrix, self._offset = (torch.from_numpy(values).to(compute.device) for values in (matrix, offset))
        self._by_itself = config["recipe"].get("normalize") == "image"
        self._threshold = _logit(self.segmenter.crater_threshold)
        # The margin that a crater must reach, as the recipe wants it.
        self.peak = max(_logit(self.segmenter.crater_peak) - self._threshold, 0) if self.segmenter.crater_peak else 0
        # Trained on magnified images, it is given windows of less ground.
        self._magnify = max(self.segmenter.scales)
        self._input = int(self.segmenter.test_cfg.crop_size[0])
        self.side = 2 * round(self._input / self._magnify / 2)
        self.orientations = self.segmenter.orientations
        self.batch = _BATCH[compute.device]

    @contextmanager
    def threads(self) -> Iterator[Executor]:
        """Open the threads that call :meth:`margins`.

        On a CPU they are several, and share its threads. A thread of its own for each of two batches takes three
        quarters of the time that two threads for each batch take, which wait for one another at every operation;
        benchmarks/scenes.py measures both.
        """
        import torch

        threads, most = self._compute.threads, 1 if self._compute.device == "cuda" else _WORKERS
        workers = max(count for count in range(1, most + 1) if threads % count == 0)
        try:
            with ThreadPoolExecutor(workers, "windows", torch.set_num_threads, (threads // workers,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(threads)  # a part of it holds for all threads

    def margins(self, windows: UInt8, good: Mask, places: list[Place]) -> Float32:
        """Compute margins, see :class:`mars_assets.craters.scan.Network`.

        Raises:
            MarsError: the memory is too small even for a single window, or the output is not a number.
        """
        import torch

        found: list[npt.NDArray[Any]] = []
        at = 0
        while at < len(windows):
            tried = self.batch
            part = slice(at, at + tried)
            try:
                found.append(self._margins(windows[part], good[part]))
                at += tried
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if tried == 1:
                    raise MarsError(
                        f"the device's memory is too small for a window of {self._input} pixels ({error}): free some, "
                        "or compute on the CPU"
                    ) from error
                with self._smaller:
                    if self.batch == tried:  # no other thread was faster
                        self.batch //= 2
                        self._progress.say(f"out of memory: going on with {self.batch} windows at once")
        margins = np.concatenate(found)
        if not np.isfinite(margins).all():
            raise MarsError(
                "the segmentation model's output is not a number, so its training has diverged or its weights are "
                "damaged: materialize 'seg_model' again"
            )
        return margins

    def _margins(self, windows: UInt8, good: Mask) -> Float32:
        import torch
        import torch.nn.functional as F  # noqa: N812 - torch's own convention

        from mars_assets.segmentation.fusion import channels_together
        from mars_assets.training.augmentation import oriented, oriented_back

        with torch.inference_mode():
            image = self._normalized(windows, good)  # in fp32: autocast would round its products
        with torch.inference_mode(), self._compute.autocast():
            if self._input != self.side:
                size, reduced = (self._input, self._input), self._input < self.side
                image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=reduced)
            total = torch.zeros((), device=image.device)
            for orientation in range(self.orientations):
                seen = channels_together(oriented(image, orientation))
                logits = self.segmenter.encode_decode(seen, [{"img_shape": seen.shape[2:]}]).float()
                total = total + oriented_back(logits[:, 1] - logits[:, 0], orientation)
            margins = (total / self.orientations - self._threshold)[:, None]
            if self._input != self.side:
                margins = F.interpolate(margins, (self.side, self.side), mode="bilinear", align_corners=False)
        return np.asarray(margins[:, 0].cpu())

    def _normalized(self, windows: UInt8, good: Mask) -> Tensor:
        """Convert windows to the network's input, (B, 6, H, W).

        Scaling, imputation and normalisation are affine together, so each pixel takes one product with a small matrix,
        and a grey one's three channels are one.
        """
        import torch

        from mars_assets.training.augmentation import FLAT

        device, (count, height, width, _) = self._compute.device, windows.shape
        grey = np.array_equal(windows[..., 0], windows[..., 1]) and np.array_equal(windows[..., 0], windows[..., 2])
        pixels = torch.from_numpy(windows[..., :1] if grey else windows).to(device).float().flatten(1, 2)
        matrix = self._matrix.sum(1, keepdim=True) if grey else self._matrix
        seen = torch.from_numpy(good).to(device).reshape(count, -1, 1)
        numbers = seen.sum(1, keepdim=True).clamp(min=1)
        mean = torch.where(seen, pixels, 0).sum(1, keepdim=True) / numbers
        centred = torch.where(seen, pixels - mean, 0)
        if self._by_itself:
            spread = centred.transpose(1, 2) @ centred / (numbers - 1).clamp(min=1)
            deviation = torch.einsum("oc,bcd,od->bo", matrix, spread, matrix).sqrt()
            chips = centred @ (matrix / (deviation + FLAT)[..., None]).transpose(1, 2)
        else:
            chips = torch.baddbmm(mean @ matrix.T + self._offset, centred, matrix.T.expand(count, -1, -1))
        return chips.reshape(count, height, width, -1).permute(0, 3, 1, 2)


def _cast_once(network: nn.Module) -> None:
    """Store the weights as autocast would convert them for every batch."""
    import torch
    from torch import nn

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            layer.to(torch.bfloat16)


def _affine(statistics: BandStatistics) -> tuple[Float32, Float32]:
    """Compute what turns red, green and blue into the network's bands.

    Returns:
        A matrix, shape (6, 3), and what is added to its product, shape (6,).
    """
    corners = np.concatenate([np.zeros((1, 3)), np.eye(3)]).astype(np.float32)[:, ::-1, None, None]
    bands = model_input(corners, EVALUATED, statistics)[..., 0, 0]
    return (bands[1:] - bands[0]).T, bands[0]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
