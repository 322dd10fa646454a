"""The tasks of this project.

A new one is a package with a ``task.py``, and a line here.
"""

from mars_assets.classification.task import CLASSIFICATION
from mars_assets.models.task import Task
from mars_assets.segmentation.task import SEGMENTATION

TASKS: tuple[Task, ...] = (CLASSIFICATION, SEGMENTATION)
