"""Versions of the ways of computing.

Fingerprints, names of model versions and Dagster's code versions contain them.

Raise a number in the commit after which the same inputs and settings give another result: another table, mask, chip,
weight, score or picture. What the old code computed is then computed again, and a model that it trained no longer
counts as a version of the present recipe. Leave the number alone if results stay as they are, however much the code
changes: raising it would compute, and for the two tasks train, everything again for nothing. New results alone (a
further column, another asset) are no reason either. A version is never lowered or used a second time.
"""

from __future__ import annotations

INDEX = "index 1"
OBSERVATIONS = "observations 3"
DOWNLOAD = "download 1"
CROP_CUT = 2
"""An integer, as fingerprints of existing crops contain it."""
CROPS = f"crops {CROP_CUT}"
LABELS = "labels 4"
"""Table of labelled crops, masks, and what images look like."""
REFLECTANCE = "hls-reflectance 1"
CALIBRATION = "calibrated-reflectance 1"
IMPUTATION = "imputation 1"
SPECTRAL_IMPUTATION = "spectral-imputation 1"
WEIGHTS = "weights 1"
UNLABELLED = "unlabelled 2"
"""Whether an image can be pretrained on."""
PRETRAINING = "pretraining 2"
RECONSTRUCTION = "reconstruction 2"
FEATURES = "features 1"
"""Reading images and pooling the features of a frozen encoder."""
CLASSIFICATION = "classification 4"
"""Training a classifier; part of its version's name."""
CLASSIFIER_PREDICTION = "prediction 2"
SEGMENTATION = ("segmentation 4", "segmentation 3")
"""Training a segmentation model; part of its version's name. 3 drew other random numbers from the same seed."""
SEGMENTER_PREDICTION = "prediction 1"
COUNTING = "counting 2"
"""Pixel counts and craters of a mask."""
SCENES = "scenes 3"
"""Craters of whole scenes from a model: windows, blending, instances, merging, counted area."""
CALIBRATION_OF_CRATERS = "crater-calibration 4"
"""The probability that a person would mark a crater, and which marked ones are listed."""
INJECTION = "injection 1"
"""Craters drawn into a scene's ground, and which of them are found."""
CATALOGUE = "catalogue 1"
"""All scenes as one: shifts, craters that several show, and the area that each adds."""
FREQUENCIES = "frequencies 2"
"""Size-frequency statistics of a catalogue, completeness and corrections, and what an age is from."""
COMPARISON = "comparison 1"
"""Matches of craters with somebody else's, and their scores."""
EVALUATION = "evaluation 3"
"""Scores of a model from its predictions."""
TRANSFER = "transfer 1"
"""Labels drawn, heads and their tuning, and baselines of a transfer study."""
DISPLAY = "display 2"
"""Pictures and tables that assets show."""


def code_version(*computations: str) -> str:
    """Join versions into the ``code_version`` of a Dagster asset.

    Several computations may have one, too.
    """
    return ", ".join(computations)
