"""Definitions that Dagster loads, without importing what only a step needs."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from mars_assets import automation, checks
from mars_assets.assets import (
    craters,
    evaluation,
    experiments,
    foundation,
    imagery,
    labels,
    models,
    predictions,
    tensors,
)
from mars_assets.executor import one_process_executor
from mars_assets.resources import ArchiveResource, ComputeResource, LakeResource, RoboflowResource


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Collect all assets, checks, jobs and resources.

    Args:
        resource_overrides: resources that replace the default ones, by key: ``lake``, ``compute``, ``archive``,
            ``roboflow``.
    """
    resources = {
        "lake": LakeResource(),
        "compute": ComputeResource(),
        "archive": ArchiveResource(),
        "roboflow": RoboflowResource(),
    }
    return dg.Definitions(
        assets=dg.load_assets_from_modules(
            [imagery, labels, tensors, foundation, models, evaluation, predictions, craters, experiments]
        ),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=automation.jobs,
        sensors=automation.sensors,
        schedules=automation.schedules,
        resources={**resources, **(resource_overrides or {})},
        executor=one_process_executor,
    )


defs = build_defs()
