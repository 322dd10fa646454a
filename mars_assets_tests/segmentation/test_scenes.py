"""A model's margins in windows of scenes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mars_assets.bands import EVALUATED, BandStatistics, impute, scale_to_reflectance
from mars_assets.craters.scan import Place
from mars_assets.errors import MarsError
from mars_assets.progress import Progress
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.scenes import SceneNetwork
from mars_assets_tests.segmentation.micro import CPU, finished

pytestmark = [pytest.mark.usefixtures("ready"), pytest.mark.slow]


def windows(side: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 220, (count, side, side, 3)).astype(np.uint8)


def places(count: int) -> list[Place]:
    return [Place(1, 0, 0)] * count


def by_mmseg(folder: Path, some: np.ndarray) -> np.ndarray:
    """Margins of windows as labelled images are predicted."""
    from mmseg.registry import TRANSFORMS

    segmenter, config = open_segmenter(folder)
    segmenter.crater_peak = 0.0
    load = TRANSFORMS.build(segmenter.cfg.test_pipeline[0])
    statistics = BandStatistics.from_dict(config["statistics"])
    margins = []
    for window in some:
        chip = impute(scale_to_reflectance(window, statistics), EVALUATED, statistics)
        image = load({"img_path": "", "chip": chip})["img"].transpose(2, 0, 1)
        with torch.inference_mode():
            inputs = segmenter.data_preprocessor({"inputs": [torch.from_numpy(image.copy())]})["inputs"]
            logits = segmenter.slide_inference(inputs, [])
        margins.append((logits[0, 1] - logits[0, 0]).numpy())
    return np.stack(margins)


RECIPES: dict[str, dict[str, Any]] = {
    "by statistics": {"normalize": "statistics"},
    "by image": {"normalize": "image"},
    "magnified": {"normalize": "image", "scales": [2.0]},
    "magnified by statistics": {"normalize": "statistics", "scales": [2.0]},
    "reduced": {"normalize": "image", "scales": [0.5]},
    "magnified by 1.5": {"normalize": "image", "scales": [1.5], "crop_size": 48, "window": 48},
    "moved threshold": {"normalize": "image", "threshold": 0.3, "peak": 0.8},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("orientations", [1, 8])
def test_margins_are_those_of_labelled_images(recipe: dict[str, Any], orientations: int, tmp_path: Path) -> None:
    folder = finished(tmp_path / "model", **recipe, all_orientations=orientations == 8)
    network = SceneNetwork(folder, CPU)
    assert network.orientations == orientations, "as many as the model was evaluated with"
    assert network.side == round(recipe.get("window", 32) / recipe.get("scales", [1.0])[0])
    some = windows(network.side)
    found = network.margins(some, np.ones(some.shape[:3], bool), places(3))
    assert found.shape == some.shape[:3]
    expected = by_mmseg(folder, some)
    assert expected.std() > 0.02, "the test would see nothing"
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_peak_is_a_margin_above_the_threshold(tmp_path: Path) -> None:
    network = SceneNetwork(finished(tmp_path / "model", threshold=0.3, peak=0.8), CPU)
    assert network.peak == pytest.approx(np.log(0.8 / 0.2) - np.log(0.3 / 0.7))
    assert SceneNetwork(finished(tmp_path / "other"), CPU).peak == 0


@pytest.mark.parametrize("normalize", ["image", "statistics"])
def test_what_lies_in_bad_pixels_changes_nothing(normalize: str, tmp_path: Path) -> None:
    network = SceneNetwork(finished(tmp_path / "model", normalize=normalize), CPU)
    some = windows(32)
    good = np.ones(some.shape[:3], bool)
    good[0, :20] = False
    good[1, 5, 5] = False
    good[2] = False
    found = network.margins(some, good, places(3))
    for value in (0, 255):
        other = np.where(good[..., None], some, value).astype(np.uint8)
        np.testing.assert_array_equal(network.margins(other, good, places(3)), found)
    assert np.isfinite(found).all()
    # One bad pixel gets the mean, which changes its surroundings and hardly the rest.
    filled = some[1:2].copy()
    filled[0, 5, 5] = np.round(some[1].reshape(-1, 3).mean(axis=0))
    np.testing.assert_allclose(network.margins(filled, good[1:2] | True, places(1))[0], found[1], atol=0.02)


def _memory_of(most: int, monkeypatch: pytest.MonkeyPatch, error: type[Exception], text: str) -> list[int]:
    """Memory for so many windows at once; returns how many were tried."""
    from mars_assets.segmentation.networks import WindowedEncoderDecoder

    whole, tried = WindowedEncoderDecoder.encode_decode, list[int]()

    def limited(self: Any, inputs: torch.Tensor, metas: Any) -> torch.Tensor:
        tried.append(len(inputs))
        if len(inputs) > most:
            raise error(text)
        return whole(self, inputs, metas)

    monkeypatch.setattr(WindowedEncoderDecoder, "encode_decode", limited)
    return tried


OUT_OF_MEMORY = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
]


@pytest.mark.parametrize(("error", "text"), OUT_OF_MEMORY)
def test_out_of_memory_halves_the_batch_and_says_so(
    error: type[Exception], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, some = finished(tmp_path / "model"), windows(32, 7)
    good = np.ones(some.shape[:3], bool)
    expected = SceneNetwork(folder, CPU).margins(some, good, places(7))
    said: list[str] = []
    network = SceneNetwork(folder, CPU, Progress(said.append))
    network.batch = 8
    tried = _memory_of(2, monkeypatch, error, text)
    np.testing.assert_allclose(network.margins(some, good, places(7)), expected, atol=1e-5)
    assert tried == [7, 4, 2, 2, 2, 1]
    assert said == [f"out of memory: going on with {count} windows at once" for count in (4, 2)]
    network.margins(some, good, places(7))
    assert tried[6:] == [2, 2, 2, 1], "the smaller batch stays"


def test_too_little_memory_for_one_window_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, some = SceneNetwork(finished(tmp_path / "model"), CPU), windows(32)
    good = np.ones(some.shape[:3], bool)
    _memory_of(0, monkeypatch, *OUT_OF_MEMORY[0])
    with pytest.raises(MarsError, match="too small for a window of 32 pixels"):
        network.margins(some, good, places(3))


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, some = SceneNetwork(finished(tmp_path / "model"), CPU), windows(32)
    tried = _memory_of(0, monkeypatch, RuntimeError, "a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        network.margins(some, np.ones(some.shape[:3], bool), places(3))
    assert len(tried) == 1
