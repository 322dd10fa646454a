"""Asset checks.

Blocking ones stop downstream assets when data is wrong, warnings point to numbers worth a look.
"""

import dagster as dg

from mars_assets.assets.evaluation import reconstruction_metrics
from mars_assets.assets.imagery import crops
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.tensors import imputed_assets, reflectance
from mars_assets.bands import IMPUTATION_METHODS, SPECTRAL
from mars_assets.imagery.checks import crop_problems
from mars_assets.labels.checks import (
    contradicted_images,
    leaking_groups,
    mask_problems,
    schema_problems,
    straddling_duplicates,
    unknown_classes,
    unusable_images,
    unused_observation_ids,
)
from mars_assets.labels.inbox import passed_over, rejections
from mars_assets.lake import Lake
from mars_assets.models.task import Task
from mars_assets.resources import LakeResource
from mars_assets.storage.files import printable, read_json
from mars_assets.tasks import TASKS
from mars_assets.tensors.stages import chip_problems

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def _outcome(found: tuple[list[str], int], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    """Build a check's result from its problems and the number of things checked."""
    problems, looked_at = found
    return dg.AssetCheckResult(
        passed=not problems,
        severity=severity,
        description=printable("; ".join(problems[:20])) or f"{looked_at} checked, no problem found",
        metadata={"checked": looked_at, "problems": len(problems)},
    )


@dg.asset_check(asset=crops, blocking=True)
def crops_are_whole(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Every crop exists, decodes, and has the size in the manifest.

    It is 8-bit RGB. The same holds for the DN of calibrated crops.

    Checks the observations of the run, or all if the check runs alone. Of crops that have passed before, a sample is
    decoded.
    """
    partitioned = context.has_partition_key or context.has_partition_key_range
    return _outcome(crop_problems(lake.open(), list(context.partition_keys) if partitioned else None), ERROR)


@dg.asset_check(asset=labelled_crops, blocking=True)
def label_schema(lake: LakeResource) -> dg.AssetCheckResult:
    """Ids are unique, splits and classes known, and files present.

    Every task has training and validation images.
    """
    return _outcome(schema_problems(lake.open()), ERROR)


@dg.asset_check(asset=labelled_crops, blocking=True)
def masks_hold_their_craters(lake: LakeResource) -> dg.AssetCheckResult:
    """Every mask exists and has its image's size.

    It shows craters if and only if some are labelled.

    The most recent masks are read, and a sample of the others.
    """
    return _outcome(mask_problems(lake.open()), ERROR)


@dg.asset_check(asset=labelled_crops)
def no_export_was_put_aside(lake: LakeResource) -> dg.AssetCheckResult:
    """No zip lies in `inbox/rejected`.

    One that does could not be read, and the previous labels remain in use.
    """
    aside = rejections(lake.open().inbox)
    return _outcome(([f"{name}: {reason}" for name, reason in aside], len(aside)), WARN)


@dg.asset_check(asset=labelled_crops, blocking=True)
def classes_are_known(lake: LakeResource) -> dg.AssetCheckResult:
    """The meaning of every class in the exports is known.

    Images with another class are left out, since what is not known to be a crater would be learnt as background.
    """
    return _outcome(unknown_classes(lake.open()), ERROR)


@dg.asset_check(asset=labelled_crops)
def annotations_are_usable(lake: LakeResource) -> dg.AssetCheckResult:
    """No image is left out for a fault, one of an annotation, or lack of a label."""
    return _outcome(unusable_images(lake.open()), WARN)


@dg.asset_check(asset=labelled_crops)
def inbox_holds_exports_alone(lake: LakeResource) -> dg.AssetCheckResult:
    """Nothing lies in the inbox but zips.

    A folder, an archive of another kind or an unfinished download is not read.
    """
    others = passed_over(lake.open().inbox)
    return _outcome((others, len(others)), WARN)


@dg.asset_check(asset=labelled_crops)
def projects_agree(lake: LakeResource) -> dg.AssetCheckResult:
    """No image is left out of the table because projects label it differently."""
    return _outcome(contradicted_images(lake.open()), WARN)


@dg.asset_check(asset=labelled_crops)
def splits_do_not_leak(lake: LakeResource) -> dg.AssetCheckResult:
    """No export has an observation, or an original image, in two splits.

    The table never does.
    """
    return _outcome(leaking_groups(lake.open()), WARN)


@dg.asset_check(asset=labelled_crops)
def no_twins_in_two_splits(lake: LakeResource) -> dg.AssetCheckResult:
    """No two images of different groups look the same and lie in different splits.

    A model would recognise one from the other.
    """
    return _outcome(straddling_duplicates(lake.open()), WARN)


@dg.asset_check(asset=labelled_crops)
def names_give_observations(lake: LakeResource) -> dg.AssetCheckResult:
    """No image's name holds an observation id that is not used.

    Ids are recognised in any case, after a prefix, with dashes or blanks. A second id, or one with a digit too few, may
    hide images of one observation in two splits.
    """
    return _outcome(unused_observation_ids(lake.open()), WARN)


@dg.asset_check(asset=reflectance, blocking=True)
def reflectance_in_range(lake: LakeResource) -> dg.AssetCheckResult:
    """Chips are finite and between 0 and the reflectance of 8-bit white.

    They are in B, G, R order and have their image's size.
    """
    return _outcome(chip_problems(lake.open(), "reflectance"), ERROR)


def _imputed_check(asset: dg.AssetsDefinition, method: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        blocking=True,
        name="bands_hold",
        description=f"Chips have the six HLS bands in order, are finite, and follow the method {method}.",
    )
    def bands_hold(lake: LakeResource) -> dg.AssetCheckResult:
        return _outcome(chip_problems(lake.open(), f"imputed_{method}"), ERROR)

    return bands_hold


imputed_checks = [
    _imputed_check(asset, method) for asset, method in zip(imputed_assets, [*IMPUTATION_METHODS, SPECTRAL], strict=True)
]


@dg.asset_check(asset=reconstruction_metrics)
def post_norm_reconstructs_best(lake: LakeResource) -> dg.AssetCheckResult:
    """The paper's finding holds: post_norm has the lowest RGB loss.

    This is among the methods for RGB images.
    """
    every = read_json(lake.open().metrics("reconstruction", ".json"))
    setting = ("weights", "mask_ratio", "masks", "seed", "label_version")
    last = [row for row in every if all(row.get(name) == every[-1].get(name) for name in setting)]
    rows = [row for row in last if row["method"] in IMPUTATION_METHODS]
    best = min(rows, key=lambda row: row["rgb_loss"])["method"]
    problems = [] if best == "post_norm" else [f"{best} has the lowest RGB loss"]
    return _outcome((problems, len(rows)), WARN)


def _below(lake: Lake, task: Task) -> list[str]:
    """List what is low about the last row of a task's evaluation."""
    last = read_json(lake.metrics(task.evaluation, ".json"))[-1]
    value = last[task.score]
    low = value is None or value < task.lowest_score
    return [f"{task.score} is {value} on {last['split']}, below {task.lowest_score}"] if low else []


def last_below_bound(lake: Lake) -> list[str]:
    """List what is low about the last rows of the evaluations that exist."""
    evaluated = [task for task in TASKS if lake.metrics(task.evaluation).exists()]
    return [problem for task in evaluated for problem in _below(lake, task)]


def _bound_check(task: Task) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=task.evaluation,
        name=f"{task.score}_above_bound",
        description=f"The last row's {task.score} is at least {task.lowest_score}.",
    )
    def above(lake: LakeResource) -> dg.AssetCheckResult:
        return _outcome((_below(lake.open(), task), 1), WARN)

    return above


bound_checks = [_bound_check(task) for task in TASKS]
