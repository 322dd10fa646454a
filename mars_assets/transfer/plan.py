"""What a study would compute, and about how long that would take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mars_assets.classification.data import load_chip
from mars_assets.classification.evaluate import scores_of_groups
from mars_assets.encoders.registry import is_drawn
from mars_assets.encoders.weights import new_encoder, open_encoder
from mars_assets.evaluation.crossed import resample_crossed
from mars_assets.prithvi.config import VARIANTS
from mars_assets.transfer.baselines import FEATURES
from mars_assets.transfer.heads import tuned
from mars_assets.transfer.results import RESAMPLES
from mars_assets.transfer.run import Contender, StudyJob, contenders_of, repetitions_of
from mars_assets.transfer.subsets import sizes

_TIMED = 16
"""Images that an encoder is timed on."""


def plan_of(job: StudyJob) -> pd.DataFrame:
    """Measure a sample of the work of a study, and extrapolate.

    Encoders are timed with random weights on some images, heads on random features, each once, in a few seconds.

    Returns:
        A row an encoder: ``encoder, runs`` (fits with another number of labels, seed, part or way), ``done`` (of them),
        ``passes`` (over all images; 0 where all is done), ``minutes`` (expected for what is missing), and a last row
        for the intervals.

    Raises:
        MarsError: see :func:`mars_assets.transfer.run.contenders_of`.
    """
    study, contenders = job.study, contenders_of(job.lake, job.study)
    repetitions = repetitions_of(job, contenders)
    of_seed = len(study.ways) * len(study.fractions) * study.folds
    rows, of_width = [], {}
    for contender in job.progress.track(contenders, "timing encoders"):
        missing = sum(not one.path.exists() for one in repetitions if one.contender is contender)
        seconds = 0.0
        if passes := missing if is_drawn(contender.name) else min(missing, 1):
            width, of_pass = _timed_pass(job, contender)
            if width not in of_width:
                of_width[width] = _timed_heads(job, contender, width)
            seconds = passes * of_pass + missing * of_width[width]
        done = (study.seeds - missing) * of_seed
        rows.append((contender.name, study.seeds * of_seed, done, passes, seconds / 60))
    cells = len(contenders) * len(study.ways) * len(study.fractions)
    rows.append(("intervals", cells, 0, 0, cells * _timed_interval(job, contenders[0]) / 60))
    return pd.DataFrame(rows, columns=["encoder", "runs", "done", "passes", "minutes"])


def in_words(plan: pd.DataFrame) -> str:
    """Format a plan as a table, with its sum."""
    shown = plan.assign(minutes=[f"{minutes:.1f}" for minutes in plan["minutes"]])
    runs = plan.iloc[:-1]
    return (
        f"{shown.to_string(index=False)}\n"
        f"{runs['runs'].sum():,} runs, of which {runs['done'].sum():,} are done; "
        f"about {math.ceil(plan['minutes'].sum())} min on this machine"
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _timed_pass(job: StudyJob, contender: Contender) -> tuple[int, float]:
    """Time some images.

    Returns:
        The width of their features, and the seconds that all would take.
    """
    recipe, chips = contender.recipe, [Path(chip) for chip in contender.images["chip"].head(_TIMED)]
    config = open_encoder(contender.start.folder).config if contender.start else VARIANTS["v1_100"].config
    loaded: list[torch.Tensor] = []

    def load() -> None:
        loaded.extend(load_chip(chip, config, recipe.image_size, recipe.normalize) for chip in chips)

    reading = _seconds(load)
    if contender.start is None:
        compute = FEATURES[contender.name]
        width = len(compute(loaded[0].mean(0).numpy()))
        computing = _seconds(lambda: [compute(chip.mean(0).numpy()) for chip in loaded])
    else:
        encoder, width = new_encoder(config).to(job.compute.device).eval(), config.embed_dim
        batch = torch.stack(loaded).to(job.compute.device)
        with torch.inference_mode(), job.compute.autocast():
            encoder(batch)  # the first call prepares
            computing = _seconds(lambda: encoder(batch).tokens.float().cpu())
    return width, (reading + computing) / len(chips) * len(contender.images)


def _timed_heads(job: StudyJob, contender: Contender, width: int) -> float:
    """Time each head once at each fraction; return the seconds of a seed."""
    study, rng, n = job.study, np.random.default_rng(0), len(contender.images)
    labels = np.arange(n) % 2
    features = (rng.standard_normal((n, width)) + 0.3 * labels[:, None]).astype(np.float32)
    split = contender.images["split"].to_numpy()
    valid, train = np.flatnonzero(split == "valid"), np.flatnonzero(split == "train")
    held, pool = np.split(train, [len(train) // study.folds])

    def fit() -> None:
        for size in sizes(len(pool), 2, study.fractions):
            for way in study.ways:
                some = pool[: max(size, 2)]
                tuned(way, (features[some], labels[some]), (features[valid], labels[valid]), features[held])

    return _seconds(fit) * study.folds


def _timed_interval(job: StudyJob, contender: Contender) -> float:
    """Time the interval of a cell of the table."""
    images = contender.images[contender.images["split"] == "train"]
    labels = images["label"].to_numpy(np.int64)
    probabilities = np.random.default_rng(0).random(len(images))
    groups = np.unique(images["observation"].to_numpy(str), return_inverse=True)[1]

    def resample() -> None:
        trainings = [scores_of_groups(labels, probabilities, groups) for _ in range(job.study.seeds)]
        resample_crossed(trainings, int(groups.max()) + 1, resamples=RESAMPLES)

    return _seconds(resample)
