"""What the automation conditions request, tick by tick."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from mars_assets.definitions import build_defs
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource

DATA_VERSION = "dagster/data_version"
TABLE_TO_TENSORS = {"labelled_crops", "reflectance", "imputed_post_norm"}
FOLLOWING = TABLE_TO_TENSORS | {"cls_evaluation", "seg_evaluation"}


class History:
    """An instance in which things happen, and the ticks over it."""

    def __init__(self, lake: Lake, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.defs = build_defs({"lake": LakeResource(root=str(lake.root))})
        self.graph = self.defs.resolve_asset_graph()
        self.cursor = None
        self.now = datetime(2026, 3, 1, 12, 10, tzinfo=UTC)

    def made(self, *names: str, version: str = "1", passed: bool = True) -> None:
        for name in names:
            key = dg.AssetKey(name)
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key, tags={DATA_VERSION: version}))
            for check in self.graph.get(key).check_keys:
                self.instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(asset_key=key, check_name=check.name, passed=passed, metadata={})
                )

    def observed(self, version: str) -> None:
        observation = dg.AssetObservation("roboflow_exports", tags={DATA_VERSION: version})
        self.instance.report_runless_asset_event(observation)

    def failed(self, name: str) -> None:
        """A run of the asset on an empty lake, which fails."""
        job = self.defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            asset_selection=[dg.AssetKey(name)], instance=self.instance, raise_on_error=False
        )
        assert not result.success

    def tick(self, minutes: float = 1) -> set[str]:
        self.now += timedelta(minutes=minutes)
        result = dg.evaluate_automation_conditions(
            self.defs,
            self.instance,
            asset_selection=dg.AssetSelection.all(),
            evaluation_time=self.now,
            cursor=self.cursor,
        )
        self.cursor = result.cursor
        return {key.to_user_string() for key in self.graph.get_all_asset_keys() if result.get_num_requested(key)}

    def settle(self, version: str) -> set[str]:
        """Makes what is requested, tick by tick, until nothing is."""
        everything: set[str] = set()
        while requested := self.tick():
            assert not requested & everything, "made twice"
            self.made(*requested, version=version)
            everything |= requested
        return everything


@pytest.fixture
def history(lake: Lake) -> Iterator[History]:
    with dg.DagsterInstance.ephemeral() as instance:
        # An observation whose product could not be had, as there always are some.
        instance.add_dynamic_partitions("observation", ["ESP_000001_0001"])
        history = History(lake, instance)
        history.observed("1")
        history.made(*FOLLOWING, "cls_model", "seg_model")
        assert history.tick() == set()
        yield history


def test_new_labels_are_followed_down_to_the_evaluations_once(history: History) -> None:
    history.observed("1")
    assert history.tick() == set(), "the same labels"
    history.observed("2")
    assert history.tick() == FOLLOWING, "all in one tick, so in one run"
    assert history.tick() == set(), "they have been requested"
    history.made("labelled_crops", version="2")
    history.tick()  # in the middle of the run
    history.made(*FOLLOWING - {"labelled_crops"}, version="2")
    assert history.tick() == history.tick() == set()


def test_a_change_outlives_a_failed_run(history: History) -> None:
    history.observed("2")
    assert history.tick() == FOLLOWING
    history.failed("labelled_crops")
    assert history.tick() == history.tick(5) == set(), "a run that fails is not repeated at once"
    assert "labelled_crops" in history.tick(60)
    history.failed("labelled_crops")
    assert history.tick() == set()
    history.observed("3")
    assert history.settle("3") == FOLLOWING, "what is new after a failure does not wait"
    assert history.tick(60) == set()


def test_a_new_model_is_evaluated(history: History) -> None:
    history.made("cls_model", version="2")
    assert history.tick() == {"cls_evaluation"}
    history.made("cls_evaluation", version="2")
    assert history.tick() == set()


def test_nothing_below_a_failed_check_is_made_until_it_passes(history: History) -> None:
    history.made("labelled_crops", version="2", passed=False)
    assert history.tick() == set()
    history.made("labelled_crops", version="3")
    assert history.tick() == FOLLOWING - {"labelled_crops"}


def test_without_a_model_the_tensors_follow_and_the_evaluation_waits_for_it(lake: Lake) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        history = History(lake, instance)
        assert history.tick() == set()
        history.observed("1")
        assert history.settle("1") == TABLE_TO_TENSORS
        history.made("cls_model")
        assert history.tick() == {"cls_evaluation"}


def test_what_trains_follows_nothing(history: History) -> None:
    conditions = {
        key.to_user_string()
        for key in history.graph.get_all_asset_keys()
        if history.graph.get(key).automation_condition is not None
    }
    assert conditions == FOLLOWING
