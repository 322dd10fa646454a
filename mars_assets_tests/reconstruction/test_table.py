"""The reconstruction table against a plain re-implementation of the protocol, and what it does not compute twice."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from PIL import Image
from scipy.stats import wilcoxon
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mars_assets.bands import HLS_BANDS, IMPUTATION_METHODS, PRITHVI_V1, impute, scale_to_reflectance
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError, ProvenanceError
from mars_assets.labels.schema import LabelledCrops
from mars_assets.lake import Lake
from mars_assets.models.versions import set_current_weights
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.masking import mask_noise
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import open_weights, save_weights
from mars_assets.reconstruction import scores, table
from mars_assets.reconstruction.figures import draw_examples, draw_losses
from mars_assets.reconstruction.scores import SCORES, ReconstructionSettings, centre_window, reconstruct_examples
from mars_assets.reconstruction.summary import statement, summarise, typical_images
from mars_assets.reconstruction.table import PAPER, ReconstructionPlan, ReconstructionResult, anchor_chip
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import read_json, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.tensors.geotiff import read_chip, write_chip
from mars_assets.tensors.schema import Chips
from mars_assets.training.compute import Compute
from mars_assets_tests.tables import complete

CPU = Compute("cpu", "fp32", 1, seed=5)
CONFIG = PrithviConfig(
    "small", img_size=64, embed_dim=48, depth=2, num_heads=3, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
)


def reconstruct(chips: pd.DataFrame, weights: Path, *, cache: Cache | None = None, **settings: Any) -> pd.DataFrame:
    return scores.reconstruct(chips, weights, ReconstructionSettings(**{"compute": CPU, **settings}), cache)


def reconstruction_table(lake: Lake, **plan: Any) -> ReconstructionResult:
    return table.reconstruction_table(lake, ReconstructionPlan(IMPUTATION_METHODS, **plan), CPU)


SIZES = {"crop": (96, 96), "exact": (64, 64), "tile": (67, 67), "wide": (40, 100)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "small"
    save_weights(folder, PrithviMAE(CONFIG), {})
    return folder


def _write(
    folder: Path, sizes: dict[str, tuple[int, int]], methods: Iterable[str] = IMPUTATION_METHODS
) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for image, size in sizes.items():
        bgr = scale_to_reflectance(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        for method in methods:
            path = folder / f"imputed_{method}" / f"{image}.tif"
            write_chip(path, impute(bgr, method), HLS_BANDS)
            rows.append({"image_id": image, "method": method, "path": path, "chip_sha": fingerprint(image, method)})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return _write(tmp_path_factory.mktemp("tensors"), SIZES)


def _plain_losses(mae: PrithviMAE, chip: np.ndarray, noise: np.ndarray, ratio: float) -> tuple[float, float]:
    """The protocol written out for one image: cut the centre, normalise, remove, predict, compare pixel by pixel."""
    _, height, width = chip.shape
    rows, columns = (min(64, side // 16 * 16) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    x = chip[:, top : top + rows, left : left + columns]
    x = (x - np.float32(PRITHVI_V1.means)[:, None, None]) / np.float32(PRITHVI_V1.stds)[:, None, None]
    with torch.no_grad():
        pred = mae(torch.from_numpy(x)[None], ratio, torch.from_numpy(noise)[None]).pred
        image = mae.unpatchify(pred, (1, rows // 16, columns // 16))[0, :, 0].numpy()
    keep = int(len(noise) * (1 - ratio))
    squares, rgb = [], []
    for patch in np.argsort(noise)[keep:]:
        i, j = divmod(int(patch), columns // 16)
        window = np.s_[:, i * 16 : i * 16 + 16, j * 16 : j * 16 + 16]
        squares.append((image[window].astype(np.float64) - x[window]) ** 2)
        rgb.append(squares[-1][:3])
    return float(np.mean(squares)), float(np.mean(rgb))


class TestLosses:
    @pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_are_the_protocols(self, weights: Path, chips: pd.DataFrame, ratio: float, batch_size: int) -> None:
        table = reconstruct(chips, weights, mask_ratio=ratio, batch_size=batch_size)
        assert len(table) == len(chips)
        mae = open_weights(weights).load()
        rows = table.set_index(["image_id", "method"])
        for chip in chips.itertuples():
            image = read_chip(chip.path, HLS_BANDS)
            patches = min(4, image.shape[1] // 16) * min(4, image.shape[2] // 16)
            expected = _plain_losses(mae, image, mask_noise(chip.image_id, 5, patches), ratio)
            row = rows.loc[chip.image_id, chip.method]
            assert (row["model_loss"], row["rgb_loss"]) == pytest.approx(expected, rel=1e-4)

    def test_of_the_perfect_and_of_the_blind_model(self, weights: Path, chips: pd.DataFrame, tmp_path: Path) -> None:
        """A model that predicts zero loses the mean square of the normalised input; for ``means`` only in RGB."""
        mae = open_weights(weights).load()
        with torch.no_grad():
            mae.decoder.decoder_pred.weight.zero_()
            mae.decoder.decoder_pred.bias.zero_()
        save_weights(tmp_path / "blind", mae, {})
        rows = reconstruct(chips, tmp_path / "blind").pivot(index="image_id", columns="method")
        means, post_norm = rows["model_loss"]["means"], rows["model_loss"]["post_norm"]
        np.testing.assert_allclose(means, rows["rgb_loss"]["means"] / 2, rtol=1e-5)
        np.testing.assert_allclose(post_norm, rows["rgb_loss"]["post_norm"], rtol=1e-5)
        # The same pixels are removed for every method, so the same target gives the same loss.
        np.testing.assert_allclose(rows["rgb_loss"]["means"], rows["rgb_loss"]["pre_norm"], rtol=1e-6)

    def test_do_not_depend_on_order_or_company(self, weights: Path, chips: pd.DataFrame) -> None:
        whole = reconstruct(chips, weights, batch_size=7).set_index(["image_id", "method"])
        shuffled = chips.sample(frac=1, random_state=1)
        other = reconstruct(shuffled, weights, batch_size=2).set_index(["image_id", "method"])
        alone = reconstruct(chips[chips["image_id"] == "tile"], weights).set_index(["image_id", "method"])
        columns = ["model_loss", "rgb_loss"]
        pd.testing.assert_frame_equal(whole[columns], other[columns], rtol=1e-5)
        pd.testing.assert_frame_equal(whole.loc[["tile"], columns], alone[columns], rtol=1e-5)

    def test_psnr_and_ssim_are_those_of_scikit_image(self, weights: Path, chips: pd.DataFrame) -> None:
        """On the removed pixels of the picture, white being 1."""
        table = reconstruct(chips, weights).set_index(["image_id", "method"])
        mae = open_weights(weights).load()
        white = PRITHVI_V1.white.transpose(1, 2, 0)
        for chip in chips.itertuples():
            x = centre_window(chip.path, mae.config)
            height, width = x.shape[1:]
            noise = mask_noise(chip.image_id, 5, height * width // 256)
            with torch.no_grad():
                _, pred, mask = mae(torch.from_numpy(x)[None], 0.5, torch.from_numpy(noise)[None])
                grid = (1, height // 16, width // 16)
                image = mae.unpatchify(pred, grid)[0, :, 0].numpy()
            removed = np.kron(mask[0].numpy().reshape(grid[1:]), np.ones((16, 16))) > 0
            original, painted = (
                ((v * PRITHVI_V1.std + PRITHVI_V1.mean)[:3].transpose(1, 2, 0) / white).astype(np.float64)
                for v in (x, np.where(removed, image, x))
            )
            row = table.loc[chip.image_id, chip.method]
            psnr = peak_signal_noise_ratio(original[removed], painted[removed], data_range=1)
            assert row["psnr"] == pytest.approx(psnr, abs=1e-3)
            _, similar = structural_similarity(original, painted, data_range=1, channel_axis=-1, full=True)
            inner = np.s_[3:-3, 3:-3]
            assert row["ssim"] == pytest.approx(similar[inner].mean(axis=-1)[removed[inner]].mean(), abs=1e-5)

    def test_masks_differ_by_image_and_seed_only(self) -> None:
        noise = mask_noise("a", 1, 196)
        np.testing.assert_array_equal(noise, mask_noise("a", 1, 196))
        assert ((noise >= 0) & (noise < 1)).all()
        for image, seed in (("b", 1), ("a", 2)):
            assert abs(np.corrcoef(noise, mask_noise(image, seed, 196))[0, 1]) < 0.3

    def test_centre_of_a_large_chip(self, tmp_path: Path) -> None:
        ramp = np.broadcast_to(np.arange(96, dtype=np.float32), (6, 96, 96)).copy()
        write_chip(tmp_path / "ramp.tif", ramp, HLS_BANDS)
        window = centre_window(tmp_path / "ramp.tif", CONFIG)
        expected = (np.arange(16, 80) - PRITHVI_V1.means[2]) / PRITHVI_V1.stds[2]
        np.testing.assert_allclose(window[2, 0], expected, rtol=1e-5)
        assert window.shape == (6, 64, 64)

    def test_what_cannot_be_reconstructed(self, weights: Path, chips: pd.DataFrame, tmp_path: Path) -> None:
        for ratio in (0.0, 1.0):
            with pytest.raises(MarsError, match="mask_ratio"):
                reconstruct(chips, weights, mask_ratio=ratio)
        small = _write(tmp_path, {"small": (15, 64)}, ["means"])
        with pytest.raises(MarsError, match=r"64 x 15 pixels, smaller than a patch .*: choose a larger image"):
            reconstruct(small, weights)


class TestOnlyWhatIsNew:
    def test_what_was_reconstructed_before_is_taken_over(
        self, weights: Path, chips: pd.DataFrame, tmp_path: Path
    ) -> None:
        with Cache(tmp_path / "scores.json", "1") as cache:
            first = reconstruct(chips[chips["image_id"] != "wide"], weights, cache=cache)
        assert first["computed"].all()
        changed = chips.copy()
        changed.loc[(chips["image_id"] == "tile") & (chips["method"] == "means"), "chip_sha"] = "another"
        with Cache(tmp_path / "scores.json", "1") as cache:
            again = reconstruct(changed, weights, cache=cache)
        computed = set(again[again["computed"]][["image_id", "method"]].itertuples(index=False, name=None))
        assert computed == {("tile", "means"), *(("wide", method) for method in IMPUTATION_METHODS)}
        both = first.merge(again[~again["computed"]], on=["image_id", "method"], suffixes=("", "_again"))
        assert len(both) == len(first) - 1
        for score in SCORES:
            pd.testing.assert_series_equal(both[score], both[f"{score}_again"], check_names=False, check_exact=True)

    def test_other_settings_are_computed_anew(self, weights: Path, chips: pd.DataFrame) -> None:
        one, cache = chips[chips["image_id"] == "exact"], Cache(None, "1")
        reconstruct(one, weights, cache=cache)
        for change in (
            {"mask_ratio": 0.6},
            {"compute": Compute("cpu", "fp32", 1, 6)},
            {"compute": Compute("cpu", "bf16", 1, 5)},
        ):
            assert reconstruct(one, weights, cache=cache, **change)["computed"].all(), change
        assert not reconstruct(one, weights, cache=cache)["computed"].any()

    def test_what_is_finished_before_an_error_is_retained(
        self, weights: Path, chips: pd.DataFrame, tmp_path: Path
    ) -> None:
        broken = chips.assign(path=chips["path"].where(chips["image_id"] != "wide", tmp_path / "gone.tif"))
        with pytest.raises(DamagedFileError), Cache(tmp_path / "scores.json", "1") as cache:
            reconstruct(broken, weights, batch_size=2, cache=cache)
        with Cache(tmp_path / "scores.json", "1") as cache:
            resumed = reconstruct(chips, weights, cache=cache)
        assert 0 < resumed["computed"].sum() < len(chips)
        whole = reconstruct(chips, weights, batch_size=2)
        pd.testing.assert_series_equal(resumed["rgb_loss"], whole["rgb_loss"], rtol=1e-5)


def _rows(n: int, **offsets: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    base = rng.gamma(2, 1, n)
    return pd.DataFrame(
        [
            {"image_id": f"i{i}", "method": method, "model_loss": base[i] / 2,
             "rgb_loss": base[i] + offset + rng.normal(0, 0.01), "psnr": 20.0 - base[i], "ssim": 0.9 - offset,
             "mask_ratio": 0.5, "seed": 1, "weights": "w", "precision": "fp32", "recipe": "r"}
            for i in range(n) for method, offset in offsets.items()
        ]
    )  # fmt: skip


class TestSummary:
    def test_means_and_paired_differences(self) -> None:
        rows = _rows(60, means=0.3, post_norm=0.0, pre_norm=0.5)
        table = summarise(rows, "v7")
        assert list(table["method"]) == ["post_norm", "means", "pre_norm"]
        table = table.set_index("method")
        expected = rows.groupby("method")[["model_loss", "rgb_loss"]].mean()
        pd.testing.assert_frame_equal(table[["model_loss", "rgb_loss"]].sort_index(), expected)
        for name in ("model_loss", "rgb_loss"):
            assert (table[f"{name}_low"] < table[name]).all()
            assert (table[name] < table[f"{name}_high"]).all()
        # Images vary by more than the methods do; what is paired sees the methods all the same.
        assert table.at["means", "rgb_loss_low"] < table.at["post_norm", "rgb_loss_high"]
        assert table.at["means", "rgb_minus_best"] == pytest.approx(0.3, abs=0.01)
        assert 0.28 < table.at["means", "rgb_minus_best_low"] < table.at["means", "rgb_minus_best_high"] < 0.32
        assert (table.loc["post_norm", ["rgb_minus_best", "rgb_minus_best_low", "rgb_minus_best_high"]] == 0).all()
        assert set(table["n_images"]) == {60}
        assert set(table["label_version"]) == {"v7"}

    def test_interval_is_the_classical_one_for_many_images(self) -> None:
        rows = _rows(400, means=0.0)
        table = summarise(rows, "v1").iloc[0]
        half = 1.96 * rows["rgb_loss"].std() / np.sqrt(400)
        assert table["rgb_loss_high"] - table["rgb_loss_low"] == pytest.approx(2 * half, rel=0.1)

    def test_spectral_stands_beside_the_others_on_its_own_images(self) -> None:
        rows = _rows(50, means=0.3, post_norm=0.1, spectral=0.0)
        measured = [f"i{number}" for number in range(20)]
        rows = rows[(rows["method"] != "spectral") | rows["image_id"].isin(measured)]
        table = summarise(rows, "v1")
        assert list(table["method"]) == ["post_norm", "means", "spectral"], "it does not rank among them"
        assert list(table["n_images"]) == [50, 50, 20]
        own = rows[rows["method"] == "spectral"]
        assert table.at[2, "rgb_loss"] == pytest.approx(own["rgb_loss"].mean())
        other = rows[(rows["method"] == "post_norm") & rows["image_id"].isin(measured)]
        assert table.at[2, "rgb_minus_best"] == pytest.approx(own["rgb_loss"].mean() - other["rgb_loss"].mean())

    def test_several_masks_count_an_image_once(self) -> None:
        one = _rows(40, means=0.3, post_norm=0.0)
        other = one.assign(seed=2, recipe="r2", rgb_loss=one["rgb_loss"] + 0.2)
        table = summarise(pd.concat([one, other]), "v1")
        assert list(table["n_images"]) == [40, 40]
        assert list(table["masks"]) == [2, 2]
        assert list(table["seed"]) == [1, 1]
        single = summarise(one, "v1")
        np.testing.assert_allclose(table["rgb_loss"], single["rgb_loss"] + 0.1)
        np.testing.assert_allclose(
            table["rgb_loss_high"] - table["rgb_loss_low"], single["rgb_loss_high"] - single["rgb_loss_low"]
        )

    def test_every_mask_ratio_has_its_rows(self) -> None:
        half = _rows(20, means=0.3, post_norm=0.0)
        most = half.assign(mask_ratio=0.75, recipe="r2", rgb_loss=half["rgb_loss"] * 2)
        table = summarise(pd.concat([half, most]), "v1")
        assert list(table["mask_ratio"]) == [0.5, 0.5, 0.75, 0.75]
        np.testing.assert_allclose(table["rgb_loss"][2:], 2 * table["rgb_loss"][:2].to_numpy())

    def test_the_paired_test_is_scipys(self) -> None:
        rows = _rows(30, means=0.02, post_norm=0.0)
        table = summarise(rows, "v1")
        pivot = rows.pivot(index="image_id", columns="method", values="rgb_loss")
        assert np.isnan(table.at[0, "p_value"])
        assert table.at[1, "p_value"] == pytest.approx(wilcoxon(pivot["means"], pivot["post_norm"]).pvalue)
        assert statement(table)[0].startswith("post_norm is better than means on RGB: 0.0")
        same = summarise(_rows(40, means=0.0, post_norm=0.0), "v1")
        assert "not distinguishable" in statement(same)[0]

    def test_images_of_one_observation_count_together(self) -> None:
        rows = _rows(60, means=0.02, post_norm=0.0)
        observations = {f"i{number}": f"ESP_{number // 10}" for number in range(60)}
        apart, together = summarise(rows, "v1"), summarise(rows, "v1", observations)
        assert list(together["n_observations"]) == [6, 6]
        assert (set(apart["resampled"]), set(together["resampled"])) == ({"images"}, {"observations"})
        pd.testing.assert_series_equal(apart["rgb_loss"], together["rgb_loss"])
        pivot = rows.pivot(index="image_id", columns="method", values="rgb_loss")
        means = (pivot["means"] - pivot["post_norm"]).groupby(observations).mean()
        assert together.at[1, "p_value"] == pytest.approx(wilcoxon(means).pvalue)
        assert together.at[1, "p_value"] > apart.at[1, "p_value"]

    def test_typical_images_leave_out_the_extremes(self) -> None:
        rows = _rows(40, means=0.0)
        ranked = list(rows.sort_values("rgb_loss")["image_id"])
        places = [ranked.index(image) for image in typical_images(rows)]
        assert places == pytest.approx([10, 20, 29], abs=1)
        assert len(typical_images(_rows(1, means=0.0))) == 1


class TestFigures:
    def test_examples_show_what_was_kept_and_predicted(self, weights: Path, chips: pd.DataFrame) -> None:
        examples = reconstruct_examples(chips[chips["image_id"].isin(["crop", "wide"])], weights, compute=CPU)
        assert [example.image_id for example in examples] == ["crop", "wide"]
        for example, shape in zip(examples, [(64, 64, 3), (32, 64, 3)], strict=True):
            assert example.original.shape == example.masked.shape == shape
            patches = example.masked.reshape(shape[0] // 16, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 768)
            removed = (patches == 128).all(axis=1)
            noise = mask_noise(example.image_id, 5, len(removed))
            np.testing.assert_array_equal(removed, noise.argsort().argsort() >= len(noise) // 2)
            kept = ~np.kron(removed.reshape(-1, 4), np.ones((16, 16))).astype(bool)
            assert set(example.reconstructions) == set(IMPUTATION_METHODS)
            for painted in example.reconstructions.values():
                np.testing.assert_array_equal(painted[kept], example.original[kept])
                assert not np.array_equal(painted[~kept], example.original[~kept])

    def test_are_drawn(self, weights: Path, chips: pd.DataFrame) -> None:
        bars = draw_losses(summarise(_rows(20, means=0.3, post_norm=0.0, pre_norm=0.5), "v1"), PAPER)
        assert [text.get_text() for text in bars.axes[0].get_xticklabels()] == ["post_norm", "means", "pre_norm"]
        examples = reconstruct_examples(chips[chips["image_id"].isin(["crop", "tile"])], weights, compute=CPU)
        figure = draw_examples(examples, "small", 0.5)
        assert [axis.get_title() for axis in figure.axes[:5]] == ["original", "masked", *IMPUTATION_METHODS]
        assert len(figure.axes) == 10


class TestTable:
    @pytest.fixture
    def filled(self, lake: Lake, weights: Path) -> Lake:
        folder = lake.foundation("small")
        save_weights(folder, open_weights(weights).load(), {})
        set_current_weights(lake, folder, open_weights(folder).sha256)
        self.add_images(lake, {f"image{number}": (64, 80) for number in range(4)})
        return lake

    @staticmethod
    def add_images(lake: Lake, sizes: dict[str, tuple[int, int]], **provenance: str) -> None:
        chips = _write(lake.root / "tensors", sizes)
        for method, rows in chips.groupby("method"):
            table = rows.assign(file=[lake.relative(path) for path in rows["path"]]).drop(columns=["path", "method"])
            table = complete(table, Chips)
            settings = {"statistics": "v1", "label_version": "labels1", "method": method, **provenance}
            write_table(lake.tensors(f"imputed_{method}") / "manifest.parquet", table, settings)
        labels = pd.DataFrame({"image_id": list(sizes), "group": [f"ESP_{number % 2}" for number in range(len(sizes))]})
        write_table(lake.labelled_crops, complete(labels, LabelledCrops))

    @pytest.mark.slow
    def test_is_written_and_not_computed_twice(self, filled: Lake) -> None:
        settings = {"n_images": 3, "batch_size": 4}
        result = reconstruction_table(filled, **settings)
        assert result.computed == 9
        stored = pd.read_parquet(filled.metrics("reconstruction"))
        pd.testing.assert_frame_equal(stored, result.summary)
        assert set(stored["weights"]) == {open_weights(filled.foundation("small")).sha256}
        assert set(stored["n_images"]) == {3}
        assert set(stored["n_observations"]) == {2}
        assert [row["method"] for row in read_json(filled.metrics("reconstruction").with_suffix(".json"))] == list(
            stored["method"]
        )
        assert len(pd.read_parquet(filled.metrics("reconstruction_images"))) == 9
        for name in ("reconstruction_losses.png", "reconstruction_examples.png"):
            assert Image.open(filled.metrics("reconstruction").with_name(name)).width > 500
        assert reconstruction_table(filled, **settings).computed == 0

        self.add_images(filled, {f"image{number}": (64, 80) for number in range(6)}, label_version="labels2")
        grown = reconstruction_table(filled, n_images=99, batch_size=4)
        assert grown.computed == 9
        images = pd.read_parquet(filled.metrics("reconstruction_images"))["image_id"]
        assert set(images) == {f"image{number}" for number in range(6)}
        assert (
            list(pd.read_parquet(filled.metrics("reconstruction"))["label_version"])
            == ["labels1"] * 3 + ["labels2"] * 3
        )
        assert len(pd.read_parquet(filled.metrics("reconstruction_images"))) == 18

    @pytest.mark.slow
    def test_a_sweep_of_ratios_and_masks(self, filled: Lake) -> None:
        settings = {"n_images": 3, "batch_size": 4, "mask_ratios": [0.5, 0.25], "masks": 2}
        result = reconstruction_table(filled, **settings)
        assert result.computed == 3 * 3 * 2 * 2
        assert list(result.summary["mask_ratio"]) == [0.5] * 3 + [0.25] * 3
        assert set(result.summary["masks"]) == {2}
        assert reconstruction_table(filled, **settings).computed == 0
        once = reconstruction_table(filled, n_images=3, batch_size=4)
        assert once.computed == 0, "a part of the sweep"
        assert len(pd.read_parquet(filled.metrics("reconstruction"))) == 9

    @pytest.mark.slow
    def test_a_chip_of_earth_is_a_row_of_its_own(self, filled: Lake, shared: Path) -> None:
        path = anchor_chip(filled, shared / "data" / "hls" / "hls_l30_chip.tif", [2, 3, 4, 5, 6, 7])
        with rasterio.open(shared / "data" / "hls" / "hls_l30_chip.tif") as file:
            np.testing.assert_array_equal(read_chip(path, HLS_BANDS), file.read([2, 3, 4, 5, 6, 7]))
        result = reconstruction_table(filled, n_images=4, anchor=path)
        row = result.summary.iloc[-1]
        assert (row["method"], row["n_images"]) == ("hls", 1)
        assert np.isnan(row["rgb_minus_best"])
        assert np.isfinite(row["rgb_loss"])
        assert len(result.summary) == 4

    @pytest.mark.parametrize(
        ("bands", "message"),
        [([1, 2, 3], "6 bands"), ([2, 3, 4, 5, 6, 11], "has 10 bands"), ([0, 1, 2, 3, 4, 5], "10")],
    )
    def test_an_unusable_anchor(self, lake: Lake, shared: Path, bands: list[int], message: str) -> None:
        with pytest.raises(MarsError, match=message):
            anchor_chip(lake, shared / "data" / "hls" / "hls_l30_chip.tif", bands)
        with pytest.raises(MarsError, match="cannot be read"):
            anchor_chip(lake, lake.root / "none.tif", [1, 2, 3, 4, 5, 6])

    @pytest.mark.slow
    def test_rows_of_an_earlier_version_stay(self, filled: Lake) -> None:
        reconstruction_table(filled, n_images=3)
        for name in ("reconstruction", "reconstruction_images"):
            old = pd.read_parquet(filled.metrics(name))
            write_table(
                filled.metrics(name), old.drop(columns=["psnr", "ssim", "masks"], errors="ignore").assign(recipe="old")
            )
        filled.cache("reconstruction").unlink()
        assert reconstruction_table(filled, n_images=3).computed == 9
        assert len(pd.read_parquet(filled.metrics("reconstruction"))) == 6
        assert len(pd.read_parquet(filled.metrics("reconstruction_images"))) == 18

    def test_every_mismatch_is_listed(self, filled: Lake) -> None:
        table = pd.read_parquet(filled.tensors("imputed_means") / "manifest.parquet")
        write_table(
            filled.tensors("imputed_means") / "manifest.parquet",
            table,
            {"statistics": "v2", "label_version": "labels9"},
        )
        write_table(
            filled.tensors("imputed_pre_norm") / "manifest.parquet",
            table[:2],
            {"statistics": "v1", "label_version": "labels9"},
        )
        with pytest.raises(ProvenanceError) as error:
            reconstruction_table(filled, n_images=3)
        for part in (
            "imputed_means was computed with the statistics 'v2'",
            "imputed_pre_norm and imputed_means contain different images",
            "imputed_post_norm and imputed_means were computed for different labels",
        ):
            assert part in str(error.value)

    def test_without_weights(self, lake: Lake) -> None:
        with pytest.raises(MissingInputError, match="prithvi_weights"):
            reconstruction_table(lake, n_images=3)
