"""Roboflow as a resource."""

import os
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from mars_assets.labels.roboflow_api import Project, Roboflow


class RoboflowResource(dg.ConfigurableResource):
    """The projects whose new versions are fetched. The key is in the variable ROBOFLOW_API_KEY and nowhere else."""

    projects: list[str] = Field(
        default=[],
        description="WORKSPACE/PROJECT, as in its address, or WORKSPACE/PROJECT=FORMAT for another format than below, such as "
        "`mars/tiles=folder`. Empty: the variable ROBOFLOW_PROJECTS, separated by commas.",
    )
    format: str = Field(
        default="coco-segmentation",
        description="What is exported of projects that name no format: coco-segmentation, yolo or png-mask-semantic; folder or "
        "multi-label of a classification project.",
    )
    base_url: str = Field(default="", description="Of the API. Empty: Roboflow's own.")

    def watched(self) -> dict["Project", str]:
        """The projects, and the format that each is exported in.

        Raises:
            MarsError: one is not of that form or its format is none that the inbox reads, or two have the same name.
        """
        from mars_assets.errors import MarsError
        from mars_assets.labels.exports import project_slug
        from mars_assets.labels.roboflow_api import Project, known_format

        named = self.projects or os.environ.get("ROBOFLOW_PROJECTS", "").split(",")
        entries = [name.partition("=") for name in named if name.strip()]
        projects = [(Project.named(name), known_format(form.strip() or self.format)) for name, _, form in entries]
        names = [project_slug(project.name) for project, _ in projects]
        if twice := {name for name in names if names.count(name) > 1}:
            raise MarsError(
                f"projects of two workspaces have one name, or one is named twice: {', '.join(sorted(twice))}. The inbox tells "
                "projects by it. Rename or leave out one of them"
            )
        return dict(projects)

    def format_of(self, project: "Project") -> str:
        """The format that a project is exported in, whether it is watched or not.

        Raises:
            MarsError: as :meth:`watched`.
        """
        return self.watched().get(project, self.format)

    def open(self) -> "Roboflow":
        """
        Raises:
            MarsError: there is no key.
        """
        from mars_assets.errors import MarsError
        from mars_assets.labels.roboflow_api import API, Roboflow

        key = os.environ.get("ROBOFLOW_API_KEY", "")
        if not key:
            raise MarsError("there is no key for Roboflow: set the variable ROBOFLOW_API_KEY where Dagster runs")
        return Roboflow(key, self.base_url or API)
