"""Observations, downloads and crops as runs of several observations."""

from typing import Any

import dagster as dg
import pytest
from PIL import Image

from mars_assets.errors import MarsError
from mars_assets.imagery.index import INDEX_FILES
from mars_assets.partitions import MOST_OBSERVATIONS, register_observations
from mars_assets.storage.files import read_json
from mars_assets.storage.published import version_in_use
from mars_assets_tests.assets.runs import IDS, Runs, jpeg, message
from mars_assets_tests.postgres import Database

SMALL = {"ops": {"crops": {"config": {"size": 64, "stride": 64}}}}


@pytest.mark.slow
def test_a_run_without_configuration_goes_on_with_the_query(runs: Runs) -> None:
    assert runs.run("hirise_index").success
    assert runs.choose(query={"longitude": [100.5, 102.5]}).success
    chosen = runs.partitions()
    assert 0 < len(chosen) < len(IDS)
    assert runs.choose().success
    assert runs.partitions() == chosen, "materializing all drops no partition"
    runs.lake.observations_csv.write_text("id\nESP_011472_1225\n")
    assert runs.choose().success
    assert sorted(runs.partitions()) == sorted([*chosen, "ESP_011472_1225"])
    refused = runs.choose(query={}, listed_only=True)
    assert "one of the two" in message(refused, "observations")
    for config in ({"listed_only": True}, {}):
        assert runs.choose(**config).success
        assert runs.partitions() == ["ESP_011472_1225"]


@pytest.mark.slow
def test_rows_of_the_index_that_cannot_be_read_are_named(runs: Runs) -> None:
    table = runs.archive / INDEX_FILES.image
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace('"SYNTHETIC: ', '"Rim 5", wide')
    table.write_text("\r\n".join([*lines, ""]))
    for _ in range(2):  # the second time from the lake
        run = runs.run("hirise_index")
        (event,) = run.get_asset_materialization_events()
        metadata = {name: value.value for name, value in event.materialization.metadata.items()}
        assert metadata["dagster/row_count"] == len(IDS) - 1
        assert metadata["rows that cannot be read"].startswith("row 2 of RDRCUMINDEX.TAB is left out: its cells cannot")


@pytest.mark.slow
def test_what_can_be_fetched_is_recorded_where_something_cannot(runs: Runs) -> None:
    runs.lake.observations_csv.write_text("id\n" + "\n".join(IDS))
    assert runs.choose().success
    runs.put(IDS[0], jpeg(0))
    runs.put(IDS[2], jpeg(2))
    failed = runs.of_all("hirise_images")
    assert not failed.success
    assert "1 of 3 observations could not be downloaded" in message(failed, "hirise_images")
    assert IDS[1] in message(failed, "hirise_images")
    assert runs.made("hirise_images") == {IDS[0], IDS[2]}
    took = read_json(runs.lake.cache("seconds_per_observation"))["hirise_images"]
    assert len(took) == 1, "what sizes the runs of a backfill: the seconds of all but the first"
    assert all(seconds > 0 for seconds in took)
    event = runs.instance.get_latest_materialization_event(dg.AssetKey("hirise_images"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["dagster/partition_row_count"].value == 1
    # What follows can go on with them.
    assert runs.run("crops", config=SMALL, partition_key=IDS[0]).success


def test_an_archive_that_refuses_all_is_asked_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from mars_assets.imagery import download

    runs.lake.observations_csv.write_text("id\n" + "\n".join(IDS))
    assert runs.choose().success
    runs.put(IDS[0], jpeg(0))
    asked: list[str] = []

    def tomorrow(response: Any, address: str, start: int) -> None:
        asked.append(address)
        if len(asked) > 1:
            response.status_code, response.headers["Retry-After"] = 429, "80000"
        real(response, address, start)

    real = download._refuse_errors
    monkeypatch.setattr(download, "_refuse_errors", tomorrow)
    failed = runs.of_all("hirise_images")
    assert "2 of 3 observations could not be downloaded" in message(failed, "hirise_images")
    assert "come back in 22.2 hours" in message(failed, "hirise_images")
    assert "1 more: not tried" in message(failed, "hirise_images")
    assert len(asked) == 2
    assert runs.made("hirise_images") == {IDS[0]}


@pytest.mark.slow
def test_a_scene_that_cannot_be_cut_leaves_the_others_alone(runs: Runs) -> None:
    runs.lake.observations_csv.write_text("id\n" + "\n".join(IDS))
    assert runs.choose().success
    for n, name in enumerate(IDS):
        runs.put(name, jpeg(n, lines=32 if n == 0 else 200))
    assert runs.of_all("hirise_images").success
    failed = runs.of_all("crops", config=SMALL)
    assert not failed.success
    assert "1 of 3 observations could not be cut" in message(failed, "crops")
    assert "too few for crops of 64" in message(failed, "crops")
    assert runs.made("crops") == set(IDS[1:])


@pytest.mark.slow
def test_a_check_looks_at_the_crops_of_its_run(runs: Runs) -> None:
    runs.lake.observations_csv.write_text("id\n" + "\n".join(IDS[:2]))
    assert runs.choose().success
    for n, name in enumerate(IDS[:2]):
        runs.put(name, jpeg(n))
    assert runs.of_all("hirise_images", "crops", config=SMALL).success
    cut = version_in_use(runs.lake.crops(IDS[0])) / f"{IDS[0]}_BROWSE_r00000_c00000.png"
    Image.new("L", (64, 64)).save(cut)

    def check(observation: str) -> Any:
        run = runs.run("crops", config=SMALL, partition_key=observation)
        (evaluation,) = [e for e in run.get_asset_check_evaluations() if e.check_name == "crops_are_whole"]
        return evaluation

    assert check(IDS[1]).passed
    found = check(IDS[0])
    assert not found.passed
    assert cut.name in found.description
    cut.write_bytes(cut.read_bytes()[:60])
    damaged = runs.run("crops", config=SMALL, partition_key=IDS[0])
    assert f"{cut} cannot be decoded" in message(damaged, "crops")
    cut.unlink()
    assert check(IDS[0]).passed


def _listed(runs: Runs, *ids: str) -> None:
    runs.lake.observations_csv.write_text("id\n" + "\n".join(ids))
    assert runs.choose().success


def _range(runs: Runs, first: str, last: str) -> Any:
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return runs.run("hirise_images", tags=tags)


@pytest.mark.parametrize("before", [(1, 2), (0, 2), (2,), (2, 0), ()])
def test_a_range_has_every_observation_between_its_ends(runs: Runs, before: tuple[int, ...]) -> None:
    for number, name in enumerate(IDS):
        runs.put(name, jpeg(number))
    if before:
        _listed(runs, *(IDS[place] for place in before))
    _listed(runs, *reversed(IDS))
    assert runs.partitions() == sorted(IDS)
    assert _range(runs, IDS[0], IDS[2]).success
    assert runs.made("hirise_images") == set(IDS)
    # To register them anew changes nothing about what has been made of them.
    _listed(runs, IDS[1], IDS[2])
    _listed(runs, *IDS)
    assert runs.partitions() == sorted(IDS)
    assert runs.made("hirise_images") == set(IDS)


def test_a_range_that_leaves_out_or_adds_observations_is_refused(runs: Runs) -> None:
    _listed(runs, *IDS)
    reversed_range = _range(runs, IDS[2], IDS[0])
    assert f"is reversed: choose {IDS[0]}...{IDS[2]}" in message(reversed_range, "hirise_images")
    # As an earlier version registered them.
    for order, first, last, wrong in (
        ((0, 2, 1), IDS[0], IDS[2], f"leave out {IDS[1]}"),
        ((0, 2, 1), IDS[0], IDS[1], f"add {IDS[2]}"),
    ):
        for key in IDS:
            runs.instance.delete_dynamic_partition("observation", key)
        runs.instance.add_dynamic_partitions("observation", [IDS[place] for place in order])
        refused = _range(runs, first, last)
        assert wrong in message(refused, "hirise_images")
        assert "materialize 'observations'" in message(refused, "hirise_images")
    assert runs.choose().success
    assert runs.partitions() == sorted(IDS)


def test_thousands_of_partitions_are_put_in_order_at_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    for one_by_one in ("add_dynamic_partitions", "delete_dynamic_partition"):
        monkeypatch.setattr(runs.instance, one_by_one, None)
    late = [f"ESP_{orbit:06d}_1755" for orbit in range(20_000, 40_000)]
    assert register_observations(runs.instance, late) == []
    early = [f"ESP_{orbit:06d}_1755" for orbit in range(4_000, 20_000)]
    assert register_observations(runs.instance, [*late, *early]) == []
    assert runs.partitions() == [*early, *late]
    assert register_observations(runs.instance, [*late[:-1], *early[1:]]) == [early[0], late[-1]]
    assert runs.partitions() == [*early[1:], *late[:-1]]
    assert register_observations(runs.instance, []) == [*early[1:], *late[:-1]]
    assert runs.partitions() == []


def test_partitions_that_cannot_be_written_leave_those_before(runs: Runs) -> None:
    register_observations(runs.instance, IDS)
    with pytest.raises(MarsError, match="at the same time"):  # as a second process with the same ids meets them
        register_observations(runs.instance, [*IDS, "ESP_000001_1755", "ESP_000001_1755"])
    assert runs.partitions() == IDS


@pytest.mark.process
def test_partitions_are_replaced_as_a_whole_on_postgres(database: Database) -> None:
    storage = {"storage": {"postgres": {"postgres_url": database.url}}}
    with dg.instance_for_test(storage) as instance:
        register_observations(instance, IDS)
        register_observations(instance, ["ESP_000001_1755", *IDS])
        assert instance.get_dynamic_partitions("observation") == ["ESP_000001_1755", *IDS]
        with pytest.raises(MarsError, match="at the same time"):
            register_observations(instance, [*IDS, "ESP_000002_1755", "ESP_000002_1755"])
        assert instance.get_dynamic_partitions("observation") == ["ESP_000001_1755", *IDS]


@pytest.mark.slow
def test_more_observations_than_partitions_bear_are_refused(runs: Runs) -> None:
    runs.lake.observations_csv.write_text("id\n" + "\n".join(IDS))
    assert runs.choose().success
    before = runs.lake.observations.read_bytes()
    many = [f"ESP_{orbit:06d}_1755" for orbit in range(MOST_OBSERVATIONS + 1)]
    runs.lake.observations_csv.write_text("id\n" + "\n".join(many))
    refused = runs.choose()
    assert "36001 observations are more than the 36000" in message(refused, "observations")
    assert "a narrower query" in message(refused, "observations")
    assert runs.partitions() == IDS
    assert runs.lake.observations.read_bytes() == before, "the list is that of the partitions"
    runs.lake.observations_csv.write_text("id\n" + "\n".join(many[:-1]))
    assert runs.choose().success
    assert runs.partitions() == many[:-1]
