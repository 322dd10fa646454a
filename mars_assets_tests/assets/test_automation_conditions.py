"""What the automation conditions request, tick by tick."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData

from mars_assets.definitions import build_defs
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource

pytestmark = pytest.mark.slow

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

    def begun(self, *names: str) -> dg.DagsterRun:
        """A run of these assets that is going on."""
        keys = {dg.AssetKey(name) for name in names}
        job = self.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
        run = self.instance.create_run_for_job(job, asset_selection=frozenset(keys))
        self._report(run, DagsterEventType.RUN_START)
        return run

    def in_run(self, run: dg.DagsterRun, *names: str, version: str) -> None:
        """What a run has made by now."""
        for name in names:
            key = dg.AssetKey(name)
            made = dg.AssetMaterialization(key, tags={DATA_VERSION: version})
            self._report(run, DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(made))
            for check in self.graph.get(key).check_keys:
                passed = AssetCheckEvaluation(asset_key=key, check_name=check.name, passed=True, metadata={})
                self._report(run, DagsterEventType.ASSET_CHECK_EVALUATION, passed)

    def ended(self, run: dg.DagsterRun, success: bool = True) -> None:
        self._report(run, DagsterEventType.RUN_SUCCESS if success else DagsterEventType.RUN_FAILURE)

    def _report(self, run: dg.DagsterRun, kind: DagsterEventType, data: Any = None) -> None:
        event = DagsterEvent(event_type_value=kind.value, job_name=run.job_name, event_specific_data=data)
        self.instance.report_dagster_event(event, run.run_id)

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
        """Runs what is requested, tick by tick, until nothing is."""
        everything: set[str] = set()
        while requested := self.tick():
            assert not requested & everything, "made twice"
            run = self.begun(*requested)
            self.in_run(run, *requested, version=version)
            self.ended(run)
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


@pytest.mark.slow
def test_new_labels_are_followed_down_to_the_evaluations_once(history: History) -> None:
    history.observed("1")
    assert history.tick() == set(), "the same labels"
    history.observed("2")
    assert history.tick() == FOLLOWING, "all in one tick, so in one run"
    assert history.tick() == set(), "they have been requested"
    run = history.begun(*FOLLOWING)
    assert history.tick() == set()
    for name in ("labelled_crops", "reflectance", "imputed_post_norm", "cls_evaluation", "seg_evaluation"):
        history.in_run(run, name, version="2")
        assert history.tick() == set(), f"in the middle of the run, after {name}"
    history.ended(run)
    assert history.tick() == history.tick(60) == set()


@pytest.mark.slow
def test_labels_that_arrive_while_others_are_followed_are_followed_afterwards(history: History) -> None:
    history.observed("2")
    assert history.tick() == FOLLOWING
    run = history.begun(*FOLLOWING)
    history.observed("3")
    assert history.tick() == set(), "one run at a time"
    history.in_run(run, *FOLLOWING, version="2")
    history.ended(run)
    assert history.settle("3") == FOLLOWING


@pytest.mark.slow
def test_labels_that_arrive_while_the_models_are_judged_are_judged_too(history: History) -> None:
    history.observed("2")
    assert history.tick() == FOLLOWING
    run = history.begun(*FOLLOWING)
    history.in_run(run, *TABLE_TO_TENSORS, version="2")
    assert history.tick() == set()
    history.observed("3")
    assert history.tick() == {"labelled_crops", "reflectance", "imputed_post_norm"}
    second = history.begun(*TABLE_TO_TENSORS)
    history.in_run(run, "cls_evaluation", "seg_evaluation", version="2")
    history.ended(run)
    history.in_run(second, *TABLE_TO_TENSORS, version="3")
    history.ended(second)
    assert history.settle("3") == {"cls_evaluation", "seg_evaluation"}


def test_what_is_made_by_hand_while_nobody_looks_is_followed(history: History) -> None:
    run = history.begun("labelled_crops")
    history.in_run(run, "labelled_crops", version="2")
    history.ended(run)
    assert history.settle("2") == FOLLOWING - {"labelled_crops"}


def test_what_one_run_by_hand_makes_is_not_made_again(history: History) -> None:
    run = history.begun("cls_model", *FOLLOWING)
    history.in_run(run, "labelled_crops", "reflectance", "imputed_post_norm", version="2")
    assert history.tick() == set()
    history.in_run(run, "cls_model", "cls_evaluation", "seg_evaluation", version="2")
    history.ended(run)
    assert history.tick() == history.tick(60) == set()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_that_fails_half_way_goes_on_there_within_the_hour(history: History) -> None:
    history.observed("2")
    assert history.tick() == FOLLOWING
    run = history.begun(*FOLLOWING)
    history.in_run(run, "labelled_crops", version="2")
    assert history.tick(90) == set(), "an hour in which it was still going on does not count"
    history.ended(run, success=False)
    assert history.tick() == history.tick(5) == set()
    history.now = history.now.replace(minute=59)
    assert history.settle("2") == FOLLOWING - {"labelled_crops"}


@pytest.mark.slow
def test_of_two_changes_the_second_outlives_a_failed_run_too(history: History) -> None:
    history.observed("2")
    assert history.tick() == FOLLOWING
    run = history.begun(*FOLLOWING)
    history.observed("3")
    assert history.tick() == set()
    history.in_run(run, *FOLLOWING, version="2")
    history.ended(run)
    assert "labelled_crops" in history.tick()
    history.failed("labelled_crops")
    assert history.tick() == set()
    assert "labelled_crops" in history.tick(60)


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


@pytest.mark.slow
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
