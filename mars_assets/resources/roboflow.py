"""Roboflow as a resource."""

import os
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from mars_assets.labels.roboflow import Project, Roboflow


class RoboflowResource(dg.ConfigurableResource):
    """The projects whose new versions are fetched. The key is in the variable ROBOFLOW_API_KEY and nowhere else."""

    projects: list[str] = Field(
        default=[],
        description="WORKSPACE/PROJECT, as in its address. Empty: the variable ROBOFLOW_PROJECTS, separated by commas.",
    )
    format: str = Field(
        default="coco-segmentation",
        description="What is exported: coco-segmentation, yolo or png-mask-semantic; folder or multi-label of a "
        "classification project.",
    )
    base_url: str = Field(default="", description="Of the API. Empty: Roboflow's own.")

    def watched(self) -> list["Project"]:
        """The projects.

        Raises:
            MarsError: one is not of that form, or two have the same name.
        """
        from mars_assets.errors import MarsError
        from mars_assets.labels.roboflow import Project

        named = self.projects or os.environ.get("ROBOFLOW_PROJECTS", "").split(",")
        projects = [Project.named(name) for name in named if name.strip()]
        names = [project.name for project in projects]
        if twice := {name for name in names if names.count(name) > 1}:
            raise MarsError(
                f"projects of two workspaces have one name, {', '.join(sorted(twice))}: the inbox tells projects by it. "
                "Rename one of them"
            )
        return projects

    def open(self) -> "Roboflow":
        """
        Raises:
            MarsError: there is no key.
        """
        from mars_assets.errors import MarsError
        from mars_assets.labels.roboflow import API, Roboflow

        key = os.environ.get("ROBOFLOW_API_KEY", "")
        if not key:
            raise MarsError("there is no key for Roboflow: set the variable ROBOFLOW_API_KEY where Dagster runs")
        return Roboflow(key, self.base_url or API)
