"""How many observations a run of a backfill takes.

On one machine a backfill is a single run. On Ray and Slurm it is divided into runs that take some minutes each: a run
costs about 8 core-seconds besides its steps, hosts share the others, and a run that is killed costs little. The number
follows from what earlier runs took, each time that the definitions are loaded.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

import dagster as dg
import yaml

from mars_assets.errors import MarsError
from mars_assets.instance import SETTINGS_FILE, instance_home
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource
from mars_assets.storage.files import read_json, write_json

RUN_SECONDS = 300.0
"""What a run should take: forty times what it costs to start one."""
MOST = 50
"""The most observations of a run, however little each takes: hundreds of them are to keep several hosts busy."""
UNMEASURED = {"hirise_images": 15.0, "crops": 15.0, "crater_maps": 150.0}
"""Seconds per observation where none were measured: a browse product of a few MB, and a scene on a GPU (guesses)."""
REMEMBERED = 100
"""The number of observations whose seconds are remembered for an asset."""
_FILE = "seconds_per_observation"


def backfill_policy(*assets: str) -> dg.BackfillPolicy:
    """Choose how a backfill is divided into runs.

    Assets that a run materializes together share a policy, as Dagster does not put others into one run.

    Args:
        assets: the assets that are materialized for each observation.
    """
    if not runs_are_shared():
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(observations_per_run(*assets))


def runs_are_shared() -> bool:
    """Test whether Dagster's settings send runs to several hosts.

    ``dagster asset materialize --partition-range`` takes a range as one run, and refuses assets with another policy.
    """
    try:
        settings = yaml.safe_load((instance_home() / SETTINGS_FILE).read_bytes())
        return str(settings["run_coordinator"]["module"]).startswith(__package__ or "")
    except (MarsError, OSError, yaml.YAMLError, KeyError, TypeError):
        return False


def observations_per_run(*assets: str) -> int:
    """Compute how many observations take a run's time, from 1 to :data:`MOST`."""
    try:
        measured = _measured(LakeResource().open())
    except MarsError:
        measured = {}
    seconds = math.fsum(_typical(measured.get(asset, [])) or UNMEASURED[asset] for asset in assets)
    return max(1, min(MOST, round(RUN_SECONDS / seconds)))


def remember_seconds(lake: Lake, asset: str, seconds: Iterable[float]) -> None:
    """Record what observations took.

    Of several runs that end at once, one is recorded.

    Args:
        lake: where it is recorded.
        asset: of the observations.
        seconds: those of a run, in order. Of several the first is left out: it also loads packages and the model, which
            costs a run of any length the same.
    """
    seconds = list(seconds)
    seconds = seconds[1:] or seconds
    if not seconds:
        return
    measured = _measured(lake)
    measured[asset] = [*measured.get(asset, []), *(round(each, 3) for each in seconds)][-REMEMBERED:]
    with contextlib.suppress(MarsError):  # of a full disk, the assets' own files tell
        write_json(lake.cache(_FILE), measured)


def _measured(lake: Lake) -> dict[str, list[float]]:
    """Read the recorded seconds, without what is damaged."""
    try:
        content = read_json(lake.cache(_FILE))
    except (MarsError, OSError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        asset: [s for s in seconds if _is_time(s)] for asset, seconds in content.items() if isinstance(seconds, list)
    }


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _typical(seconds: list[float]) -> float:
    """Average with the seconds themselves as weights; 0 without any.

    Observations whose results existed take next to no time, and would hide what the others take.
    """
    total = math.fsum(seconds)
    return math.fsum(each * each for each in seconds) / total if total else 0.0
