"""Roboflow as a resource."""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.errors import MarsError
from mars_assets.labels.class_names import project_slug
from mars_assets.labels.roboflow_api import API, Project, Roboflow, known_format

ROBOFLOW_POOL = "roboflow"
"""The concurrency pool of downloads from Roboflow."""


class RoboflowResource(dg.ConfigurableResource[Any]):
    """The Roboflow projects whose new versions are downloaded.

    The API key is read only from the variable ROBOFLOW_API_KEY.
    """

    projects: list[str] = Field(
        default=[],
        description="WORKSPACE/PROJECT, as in the project's address, or WORKSPACE/PROJECT=FORMAT for a format other "
        "than the one below, such as `mars/tiles=folder`. If empty, the variable ROBOFLOW_PROJECTS, separated by "
        "commas.",
    )
    format: str = Field(
        default="coco-segmentation",
        description="Export format of projects listed without one: coco-segmentation, yolo or png-mask-semantic; "
        "folder or multi-label for a classification project.",
    )
    base_url: str = Field(default="", description="Base address of the API. If empty, Roboflow's own.")

    def watched(self) -> dict[Project, str]:
        """List the projects and the format in which each is exported.

        Raises:
            MarsError: an entry is malformed, the inbox cannot read its format, or two projects have the same name.
        """
        named = self.projects or os.environ.get("ROBOFLOW_PROJECTS", "").split(",")
        entries = [name.partition("=") for name in named if name.strip()]
        projects = [(Project(name), known_format(form.strip() or self.format)) for name, _, form in entries]
        names = [project_slug(project.name) for project, _ in projects]
        if twice := {name for name in names if names.count(name) > 1}:
            raise MarsError(
                f"two projects have the same name, or one is listed twice: {', '.join(sorted(twice))}. The inbox "
                "distinguishes projects by name alone: rename or remove one of them"
            )
        return dict(projects)

    def format_of(self, project: Project) -> str:
        """Choose the format in which a project is exported, whether it is watched or not.

        Raises:
            MarsError: as for :meth:`watched`.
        """
        return self.watched().get(project, self.format)

    def open(self) -> Roboflow:
        """Connect to Roboflow.

        Raises:
            MarsError: there is no key.
        """
        key = os.environ.get("ROBOFLOW_API_KEY", "")
        if not key:
            raise MarsError("the Roboflow key is missing: set the variable ROBOFLOW_API_KEY where Dagster runs")
        return Roboflow(key, self.base_url or API)
