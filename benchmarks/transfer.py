"""The transfer study of one frozen encoder, and what its intervals cover.

The study of an encoder with eight label fractions, seven seeds, five parts and two heads, from nothing to its results'
files, against one pass of the same encoder over the same images plus the same heads in scikit-learn. And how often
95 % intervals contain the true score, in simulated studies whose observations and seeds both differ by chance.

    python benchmarks/transfer.py
"""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from measure import compute, import_first, measure, parser, report, surroundings, verdict

IMAGES, VALID, OBSERVATIONS, SIDE = 636, 110, 97, 112
"""As many as `crater-tiles.v1` has."""
THREADS = 2
SEEDS, PARTS = 7, 5
STUDIES = 600

Floats = npt.NDArray[np.float64]


def prepare(work: Path) -> None:
    """Write chips, and the sample's weights."""
    import pandas as pd

    from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.lake import Lake
    from mars_assets.models.versions import set_current_weights
    from mars_assets.prithvi.weights import Origin, install, open_weights
    from mars_assets.progress import SILENT
    from mars_assets.tensors.geotiff import write_chip

    rng, rows = np.random.default_rng(0), []
    for number in range(IMAGES):
        label = number % 2
        rgb = rng.integers(60, 160, (227, 227, 3)).astype(np.uint8)
        rgb[60:160, 60:160] += np.uint8(6 * label)
        path = work / f"{number}.tif"
        write_chip(path, impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
        split = "valid" if number < VALID else "train"
        rows.append((str(number), split, f"o{number % OBSERVATIONS}", str(path), f"c{number}", f"l{number}", label))
    names = ["image_id", "split", "observation", "chip", "chip_sha", "labels_sha", "label"]
    pd.DataFrame(rows, columns=names).to_parquet(work / "images.parquet")
    lake = Lake(work / "lake")
    folder = install(lake, Origin("sample", "sample", None), SILENT)
    set_current_weights(lake, folder, open_weights(folder).sha256)


def study(work: Path) -> None:
    """The study of one encoder, without its controls, and its table."""
    import pandas as pd

    from mars_assets.datasets import Dataset
    from mars_assets.lake import Lake
    from mars_assets.transfer.protocol import TransferStudy
    from mars_assets.transfer.run import StudyJob, run_study

    import_first("sklearn.linear_model", "sklearn.neighbors", "scipy.stats")
    lake, images = Lake(work / "lake"), pd.read_parquet(work / "images.parquet")
    for made in (lake.features, lake.transfer_runs):
        shutil.rmtree(made, ignore_errors=True)
    labelled = Dataset(images, {"label_version": "benchmark"})
    job = StudyJob(lake, TransferStudy(seeds=SEEDS, folds=PARTS), compute=compute(THREADS))
    with (
        patch("mars_assets.transfer.run.classification_dataset", lambda *_: labelled),
        patch("mars_assets.transfer.run.studied", lambda *_: ["prithvi_weights"]),
    ):
        report(lambda: run_study(job))


def encoder_pass(work: Path) -> None:
    """Read all chips, and pass the encoder over them once."""
    import pandas as pd
    import torch

    from mars_assets.classification.data import load_chip
    from mars_assets.lake import Lake
    from mars_assets.prithvi.weights import load_encoder

    encoder = load_encoder(Lake(work / "lake").foundation("sample"))
    chips = [Path(chip) for chip in pd.read_parquet(work / "images.parquet")["chip"]]

    def forward() -> None:
        with torch.inference_mode(), compute(THREADS).autocast():
            for start in range(0, IMAGES, 32):
                some = [load_chip(chip, encoder.config, SIDE, "image") for chip in chips[start : start + 32]]
                encoder(torch.stack(some)).tokens.mean(1)

    report(forward)


def heads(work: Path) -> None:
    """The heads of the study in plain scikit-learn, tuned over as many values, on the sample's features."""
    import pandas as pd
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    from mars_assets.classification.data import load_chip
    from mars_assets.lake import Lake
    from mars_assets.prithvi.weights import load_encoder
    from mars_assets.transfer.heads import NEIGHBOURS, REGULARISATION
    from mars_assets.transfer.protocol import TransferStudy

    encoder, images = load_encoder(Lake(work / "lake").foundation("sample")), pd.read_parquet(work / "images.parquet")
    with torch.inference_mode():
        chips = torch.stack([load_chip(Path(chip), encoder.config, SIDE, "image") for chip in images["chip"]])
        features = torch.cat([encoder(some).tokens[:, 1:].mean(1) for some in chips.split(32)]).numpy()
    labels = images["label"].to_numpy()
    valid, pool = np.flatnonzero(images["split"] == "valid"), np.flatnonzero(images["split"] == "train")

    def fit() -> None:
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(pool)
            for held_out in np.array_split(order, PARTS):
                rest = order[~np.isin(order, held_out)]
                for fraction in TransferStudy().fractions:
                    some = rest[: max(4, int(fraction * len(rest)))]
                    if len(set(labels[some])) < 2:
                        continue
                    scaler = StandardScaler().fit(features[some].astype(np.float64))
                    x, v, h = (scaler.transform(features[rows]) for rows in (some, valid, held_out))
                    for strength in REGULARISATION:
                        probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-6)
                        log_loss(labels[valid], probe.fit(x, labels[some]).predict_proba(v)[:, 1])
                        probe.predict_proba(h)
                    for number in (number for number in NEIGHBOURS if number <= len(some)):
                        votes = KNeighborsClassifier(number, metric="cosine").fit(features[some], labels[some])
                        log_loss(labels[valid], votes.predict_proba(features[valid])[:, 1].clip(0.01, 0.99))
                        votes.predict_proba(features[held_out])

    report(fit)


SIDES: dict[str, Callable[[Path], None]] = {"study": study, "pass": encoder_pass, "heads": heads}


def accuracy(right: Floats, counts: Floats) -> dict[str, Floats]:
    return {"accuracy": counts @ right / counts.sum(1)}


def coverage(observations: int, seeds: int) -> dict[str, float]:
    """Simulate studies; return the share of intervals that contain the true score, by what is resampled."""
    from mars_assets.evaluation.crossed import interquartile_estimate, resample_crossed
    from mars_assets.evaluation.statistics import bootstrap_intervals

    rng, groups, truth = np.random.default_rng(1), np.repeat(np.arange(observations), 6), 0.8
    covered = dict.fromkeys(("seeds", "observations", "both, crossed"), 0)
    for trial in range(STUDIES):
        centre = truth + rng.normal(0, 0.08, (1, observations, 1)) + rng.normal(0, 0.02, (seeds, 1, 1))
        scores = (centre + rng.normal(0, 0.1, (seeds, observations, 6))).reshape(seeds, -1)
        alone = interquartile_estimate(scores.mean(1)[None], 300, trial)
        mean = functools.partial(accuracy, scores.mean(0))
        trainings = [functools.partial(accuracy, one.reshape(-1, 6).mean(1)) for one in scores]
        crossed = resample_crossed(trainings, observations, resamples=300, seed=trial)["accuracy"].estimate()
        intervals = (
            (alone.low, alone.high),
            bootstrap_intervals(mean, groups, resamples=300, seed=trial)["accuracy"],
            (crossed.low, crossed.high),
        )
        for name, (low, high) in zip(covered, intervals, strict=True):
            covered[name] += low <= truth <= high
    return {name: count / STUDIES for name, count in covered.items()}


def main() -> int:
    options = parser(__doc__, repeats=3).parse_args()
    if options.side:
        import torch

        torch.set_num_threads(THREADS)
        SIDES[options.side](options.work)
        return 0
    surroundings(options, THREADS)
    holds = []
    for observations, seeds in ((9, 5), (30, 5), (30, 7), (88, 5), (88, 7)):
        covered = coverage(observations, seeds)
        shares = ", ".join(f"{name} {share:.2f}" for name, share in covered.items())
        print(f"{observations} observations, {seeds} seeds: 95 % intervals over ... cover: {shares}")
        holds.append(verdict("crossed", covered["both, crossed"], 0.9))
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        prepare(work)
        found = measure(Path(__file__), {name: ["--work", str(work)] for name in SIDES}, options.repeats)
    finally:
        shutil.rmtree(work)
    ratio = found["study"].seconds / (found["pass"].seconds + found["heads"].seconds)
    holds.append(verdict("the study over a pass and bare heads", ratio, 1.5, at_least=False))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
