import os
import time
import zipfile
from collections.abc import Iterator

import dagster as dg
import pandas as pd
import pytest

from mars_assets.automation import new_labels, new_roboflow_versions, nightly_evaluation, scores_below_bound
from mars_assets.classification.task import CLASSIFICATION
from mars_assets.definitions import build_defs
from mars_assets.errors import DamagedFileError
from mars_assets.labels import inbox
from mars_assets.labels.exports import label_version
from mars_assets.labels.inbox import reject
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource, RoboflowResource
from mars_assets.storage.files import write_json, write_table
from mars_assets.storage.hashing import sha256_file
from mars_assets_tests.labels.test_roboflow_api import KEY, Answer, Server

pytestmark = pytest.mark.slow


@pytest.fixture
def inbox_of_one(lake: Lake) -> Lake:
    put(lake, "craters.v1.zip", b"one")
    return lake


def put(lake: Lake, name: str, content: bytes, age: float = 60) -> None:
    lake.inbox.mkdir(parents=True, exist_ok=True)
    path = lake.inbox / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content", content)
    os.utime(path, (time.time() - age,) * 2)


def version(lake: Lake, *names: str) -> str:
    return label_version([sha256_file(lake.inbox / name) for name in names])


def tick(lake: Lake, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        return new_labels(context, lake=LakeResource(root=str(lake.root)))


def seen(result: dg.SensorResult | dg.SkipReason) -> str:
    """The data version that a tick observed."""
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert event.asset_key == dg.AssetKey("roboflow_exports")
    assert isinstance(event, dg.AssetObservation)
    assert not result.run_requests
    return (event.tags or {})["dagster/data_version"]


def test_the_same_exports_are_nothing_new(inbox_of_one: Lake) -> None:
    result = tick(inbox_of_one)
    assert seen(result) == version(inbox_of_one, "craters.v1.zip")[:16]
    assert isinstance(result, dg.SensorResult)
    (inbox_of_one.inbox / "craters.v1.zip").rename(inbox_of_one.inbox / "craters.v2.zip")
    assert isinstance(tick(inbox_of_one, result.cursor), dg.SkipReason), "the same file under another name is the same"


def test_new_labels_are_observed_as_their_asset_observes_them(inbox_of_one: Lake) -> None:
    before = seen(tick(inbox_of_one))
    put(inbox_of_one, "craters.v2.zip", b"two")
    after = seen(tick(inbox_of_one, before))
    assert after == version(inbox_of_one, "craters.v2.zip")[:16] != before
    defs = build_defs({"lake": LakeResource(root=str(inbox_of_one.root))})
    with dg.DagsterInstance.ephemeral() as instance:
        assert (
            defs.resolve_implicit_global_asset_job_def()
            .execute_in_process(asset_selection=[dg.AssetKey("roboflow_exports")], instance=instance)
            .success
        )
        (record,) = instance.fetch_observations(dg.AssetKey("roboflow_exports"), limit=1).records
        assert record.asset_observation
        assert record.asset_observation.tags["dagster/data_version"] == after


def test_an_empty_inbox_is_no_news(lake: Lake) -> None:
    assert isinstance(tick(lake), dg.SkipReason)


def test_a_zip_that_has_just_arrived_is_looked_at_next_time(inbox_of_one: Lake) -> None:
    put(inbox_of_one, "craters.v2.zip", b"two", age=inbox.SETTLED_SECONDS / 10)
    result = tick(inbox_of_one)
    assert isinstance(result, dg.SkipReason)
    assert "craters.v2.zip" in (result.skip_message or "")


def test_a_zip_that_is_still_being_copied_is_left_alone(inbox_of_one: Lake) -> None:
    known = version(inbox_of_one, "craters.v1.zip")[:16]
    put(inbox_of_one, "craters.v2.zip", b"two")
    whole = inbox_of_one.inbox / "craters.v2.zip"
    content = whole.read_bytes()
    for age in (60, inbox.UNFINISHED_SECONDS / 2):  # also where the copying has stalled
        whole.write_bytes(content[:-10])
        os.utime(whole, (time.time() - age,) * 2)
        result = tick(inbox_of_one, known)
        assert isinstance(result, dg.SkipReason)
        assert "still being copied: craters.v2.zip" in (result.skip_message or "")
    whole.write_bytes(content)
    os.utime(whole, (time.time() - 60,) * 2)
    assert seen(tick(inbox_of_one, known)) == version(inbox_of_one, "craters.v2.zip")[:16]


@pytest.fixture
def roboflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("ROBOFLOW_API_KEY", KEY)
    monkeypatch.setenv("ROBOFLOW_PROJECTS", " mars/craters,")
    server = Server()
    server.answers["/mars/craters"] = [Answer(200, {"versions": [{"id": "mars/craters/3"}, {"id": "mars/craters/2"}]})]
    server.exports()
    yield server
    server.close()


def look(lake: Lake, server: Server) -> dg.SensorResult | dg.SkipReason:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance)
        resource = RoboflowResource(base_url=server.url)
        return new_roboflow_versions(context, lake=LakeResource(root=str(lake.root)), roboflow=resource)


def test_a_new_roboflow_version_ends_up_in_the_inbox_once(lake: Lake, roboflow: Server) -> None:
    result = look(lake, roboflow)
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or []
    defs = build_defs({"lake": LakeResource(root=str(lake.root)), "roboflow": RoboflowResource(base_url=roboflow.url)})
    with dg.DagsterInstance.ephemeral() as instance:
        run = defs.get_job_def("fetch_labels").execute_in_process(run_config=request.run_config, instance=instance)
        said = " ".join(str(event) for event in instance.all_logs(run.run_id))
    assert run.success
    assert KEY not in said
    assert [path.name for path in lake.inbox.glob("*.zip")] == ["craters.v3.coco-segmentation.zip"]
    assert isinstance(look(lake, roboflow), dg.SkipReason)
    # Put aside because it was broken, it is not fetched for ever.
    reject(lake.inbox / "craters.v3.coco-segmentation.zip", DamagedFileError("broken"))
    assert isinstance(look(lake, roboflow), dg.SkipReason)
    roboflow.answers["/mars/craters"] = [Answer(200, {"versions": [{"id": "mars/craters/4"}]})]
    assert isinstance(look(lake, roboflow), dg.SensorResult)


def test_roboflow_unconfigured_or_out_of_reach_is_no_error(
    lake: Lake, roboflow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value, message in (
        ("ROBOFLOW_API_KEY", "wrong", "refuses the key"),
        ("ROBOFLOW_API_KEY", "", "the Roboflow key is missing"),
        ("ROBOFLOW_PROJECTS", "craters", "names no Roboflow project"),
        ("ROBOFLOW_PROJECTS", "", "no Roboflow project is watched"),
        ("ROBOFLOW_PROJECTS", "mars/craters=jpeg", "the inbox does not accept the format 'jpeg'"),
    ):
        monkeypatch.setenv(name, value)
        result = look(lake, roboflow)
        assert isinstance(result, dg.SkipReason)
        assert message in (result.skip_message or "")


def test_a_project_is_exported_in_the_format_that_it_is_named_with(
    lake: Lake, roboflow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOFLOW_PROJECTS", "mars/craters, mars/tiles = folder")
    roboflow.answers["/mars/tiles"] = [Answer(200, {"versions": [{"id": "mars/tiles/7"}]})]
    export = Answer(200, {"export": {"link": f"{roboflow.url}/storage/x.zip"}})
    roboflow.answers["/mars/tiles/7/folder"] = [export]
    result = look(lake, roboflow)
    assert isinstance(result, dg.SensorResult)
    configs = [request.run_config for request in result.run_requests or []]
    assert [config["ops"]["fetch_export"]["config"]["format"] for config in configs] == ["coco-segmentation", "folder"]
    by_hand = {"ops": {"fetch_export": {"config": {"project": "mars/tiles", "version": 7}}}}
    defs = build_defs({"lake": LakeResource(root=str(lake.root)), "roboflow": RoboflowResource(base_url=roboflow.url)})
    for config in (configs[1], by_hand):
        with dg.DagsterInstance.ephemeral() as instance:
            assert defs.get_job_def("fetch_labels").execute_in_process(run_config=config, instance=instance).success
        assert [path.name for path in lake.inbox.glob("*.zip")] == ["tiles.v7.folder.zip"]
        (lake.inbox / "tiles.v7.folder.zip").unlink()


def low(lake: Lake, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        return scores_below_bound(context, lake=LakeResource(root=str(lake.root)))


def test_a_low_score_asks_for_one_retraining_of_these_labels(lake: Lake) -> None:
    write_table(lake.labelled_crops, pd.DataFrame({"image_id": ["a"]}), {"label_version": "1"})
    assert isinstance(low(lake), dg.SkipReason)
    for accuracy, asked in ((CLASSIFICATION.lowest_score, False), (CLASSIFICATION.lowest_score - 0.01, True)):
        row = {"balanced_accuracy": accuracy, "split": "test"}
        write_table(lake.metrics("cls_evaluation"), pd.DataFrame([row]))
        write_json(lake.metrics("cls_evaluation").with_suffix(".json"), [row])
        assert isinstance(low(lake), dg.SensorResult) is asked
    result = low(lake)
    assert isinstance(result, dg.SensorResult)
    assert isinstance(low(lake, result.cursor), dg.SkipReason)


def test_what_costs_training_is_off_until_it_is_switched_on() -> None:
    repository = build_defs().get_repository_def()
    states = {sensor.name: sensor.default_status for sensor in repository.sensor_defs}
    assert states == {
        "follow_labels": dg.DefaultSensorStatus.RUNNING,
        "new_labels": dg.DefaultSensorStatus.RUNNING,
        "new_roboflow_versions": dg.DefaultSensorStatus.RUNNING,
        "scores_below_bound": dg.DefaultSensorStatus.STOPPED,
    }
    assert {schedule.name: schedule.default_status for schedule in repository.schedule_defs} == {
        "nightly_evaluation": dg.DefaultScheduleStatus.RUNNING,
        "weekly_retraining": dg.DefaultScheduleStatus.STOPPED,
    }


def test_every_night_the_models_that_there_are_are_evaluated(lake: Lake) -> None:
    def night() -> dg.RunRequest | dg.SkipReason:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_schedule_context(instance, resources={"lake": LakeResource(root=str(lake.root))})
            return nightly_evaluation(context)

    assert isinstance(night(), dg.SkipReason)
    write_table(lake.labelled_crops, pd.DataFrame({"image_id": ["a"]}))
    assert isinstance(night(), dg.SkipReason)
    evaluated = {"reflectance", "imputed_post_norm"}
    for name in ("cls", "seg"):
        write_json(lake.model(f"{name}_model") / "current.json", {"version": "v1"})
        evaluated |= {f"{name}_evaluation"}
        request = night()
        assert isinstance(request, dg.RunRequest)
        assert {key.to_user_string() for key in request.asset_selection or ()} == evaluated
        assert request.tags == {"mars_assets/automatic": "true"}
    put(lake, "craters.v1.zip", b"one")
    request = night()
    assert isinstance(request, dg.RunRequest)
    assert {key.to_user_string() for key in request.asset_selection or ()} == evaluated | {"labelled_crops"}


def test_all_that_starts_runs_says_what_it_does() -> None:
    repository = build_defs().get_repository_def()
    for definition in (*repository.sensor_defs, *repository.schedule_defs):
        assert len(definition.description or "") > 60, definition.name


def test_one_project_out_of_reach_does_not_stop_the_others(
    lake: Lake, roboflow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOFLOW_PROJECTS", "mars/gone,mars/craters")
    result = look(lake, roboflow)
    assert isinstance(result, dg.SensorResult)
    assert len(result.run_requests or []) == 1
    monkeypatch.setenv("ROBOFLOW_PROJECTS", "moon/craters,mars/craters")
    result = look(lake, roboflow)
    assert isinstance(result, dg.SkipReason)
    assert "have the same name, or one is listed twice: craters" in (result.skip_message or "")
