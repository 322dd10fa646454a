"""Assets of group experiments: sweeps of recipes, and the transfer study."""

import json
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import create_model

from mars_assets.assets.metadata import mendable, picture, progress_of, table, where
from mars_assets.assets.models import INPUTS
from mars_assets.assets.run_config import recipe_from
from mars_assets.code_versions import EVALUATION, FEATURES, TRANSFER, code_version
from mars_assets.experiments.figures import draw_curves, draw_effects, effects, readable, readable_together
from mars_assets.experiments.run import SweepJob, run_sweep
from mars_assets.experiments.sweep import Sweep, plan, varied
from mars_assets.experiments.table import histories, pooled, ranked
from mars_assets.lake import Lake
from mars_assets.models.task import Task
from mars_assets.plotting import as_image, to_png
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.storage.files import write_bytes, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.tasks import TASKS
from mars_assets.transfer.protocol import TransferStudy

GROUP = "experiments"


def experiments_asset(task: Task) -> dg.AssetsDefinition:
    """Build the asset that runs a task's sweeps."""

    def experiments(
        context: dg.AssetExecutionContext, config: Any, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        with mendable():
            here, sweep = lake.open(), recipe_from(config, Sweep)
            if not (sweep.base or sweep.variants or sweep.grid or sweep.random):
                sweep = sweep.model_copy(update=dict(task.default_sweep))
            runs = plan(sweep, task.recipe)
            job = SweepJob(
                here,
                task,
                runs,
                compute=compute.choose(),
                held_back=sweep.hold_back,
                folds=sweep.folds,
                progress=progress_of(context),
            )
            rows, ran = run_sweep(job)
            settings = [name for name in varied(runs) if not sweep.variants or name in {*sweep.grid, *sweep.random}]
            pages = {"runs": readable(rows, settings, task.sweep_scores)}
            if sweep.folds:
                together = readable_together(pooled(here, task, rows), settings, task.sweep_scores)
                pages = {"all folds": together, **pages}
            text = "\n\n".join(page.to_markdown(index=False) for page in pages.values()) + "\n"
            write_bytes(here.metrics(task.experiments, ".md"), text.encode())
            drawn = _figures(here, task, rows, settings)
        return dg.MaterializeResult(
            metadata={
                **drawn,
                **_best(task, rows),
                **{title: table(page) for title, page in pages.items()},
                "new runs": ran,
                "dagster/row_count": len(rows),
                "file": where(here.metrics(task.experiments)),
            },
            data_version=dg.DataVersion(
                fingerprint(*(page.astype(str).to_numpy().tolist() for page in pages.values()))[:16]
            ),
        )

    experiments.__annotations__["config"] = create_model(
        f"{task.name.title()}ExperimentsConfig", __base__=(dg.Config, Sweep), __doc__=Sweep.__doc__
    )
    return dg.asset(
        name=task.experiments,
        description=task.descriptions.experiments,
        group_name=GROUP,
        kinds={*task.libraries, "parquet"},
        code_version=code_version(task.training_versions[0], EVALUATION, *task.evaluation_versions),
        deps=INPUTS,
        pool=GPU_POOL,
    )(experiments)


def _figures(lake: Lake, task: Task, rows: pd.DataFrame, settings: list[str]) -> dict[str, Any]:
    """Draw and save the runs' curves and the effects of varied settings."""
    drawn: dict[str, Any] = {"curves": draw_curves(rows, histories(lake, task, rows), task.score, task.curve)}
    shown: dict[str, Any] = {}
    if settings and len(ranked(rows, task.score)) > 1:
        drawn["settings"] = draw_effects(rows, settings, task.score)
        shown["which setting matters"] = table(effects(rows, settings, task.score))
    for title, figure in drawn.items():
        image = as_image(figure)
        to_png(image, lake.figure(task.experiments, title))
        shown[title] = picture(image, f"{task.experiments}: {title}")
    return shown


def _best(task: Task, rows: pd.DataFrame) -> dict[str, Any]:
    order = ranked(rows, task.score)
    if order.empty:
        return {}
    best = order.iloc[0]
    return {
        "best": str(best["name"] or best["version"]),
        f"validation {task.score} of the best": float(best[f"valid_{task.score}"]),
        "recipe of the best": dg.MetadataValue.json(json.loads(best["recipe"])),
    }


experiments_assets = [experiments_asset(task) for task in TASKS]


class TransferStudyConfig(dg.Config, TransferStudy):
    __doc__ = TransferStudy.__doc__


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "scikitlearn", "parquet"},
    code_version=code_version(TRANSFER, FEATURES),
    deps=INPUTS,
    pool=GPU_POOL,
)
def transfer_study(
    context: dg.AssetExecutionContext, config: TransferStudyConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """What encoders are worth on the labelled images, with controls.

    Frozen features of each encoder are given to a linear probe and to nearest neighbours, with 1 % to all of the labels
    and several seeds, cross-validated by observation. Each encoder is compared with random weights of its architecture,
    with its own weights in a random order, with an untrained convolutional network, with pixels and with histograms of
    gradients. The report says in words what the intervals show.

    An encoder passes once over the images for all heads. Finished parts are not repeated, and a killed study continues.
    """
    from mars_assets.transfer.report import sections_of, write_report
    from mars_assets.transfer.results import results_of
    from mars_assets.transfer.run import ASSET, StudyJob, run_study

    with mendable():
        here, study, progress = lake.open(), recipe_from(config, TransferStudy), progress_of(context)
        repetitions, ran = run_study(StudyJob(here, study, compute=compute.choose(), progress=progress))
        results = results_of(repetitions, progress)
        write_table(here.metrics(ASSET), results.runs)
        sections = sections_of(here, study, results)
        write_report(here, sections)
    shown: dict[str, Any] = {}
    for section in sections:
        shown |= {section.title: dg.MetadataValue.md(section.text)} if section.text else {}
        if section.table is not None:
            shown[f"{section.title}: table"] = table(section.table)
        if section.figure:
            title, drawn = section.figure
            shown[title] = picture(drawn, f"{ASSET}: {title}")
    return dg.MaterializeResult(
        metadata={
            **shown,
            "report": where(here.metrics(ASSET, ".html")),
            "file": where(here.metrics(ASSET)),
            "computed in this run": ran,
            "dagster/row_count": len(results.runs),
        },
        data_version=dg.DataVersion(fingerprint([one.path.name for one in repetitions])[:16]),
    )
