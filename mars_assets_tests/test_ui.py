"""A person at the UI: `dagster dev` with its daemon, driven through headless Chromium and GraphQL, on real images.

One server on one lake serves all tests. A test asks for the state that it starts from by a fixture, which brings it
about unless an earlier test did, so that each passes alone and in any order.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import requests
import yaml
from playwright.sync_api import Locator, Page, expect

from mars_assets.executor import PROCESS_TAG
from mars_assets.labels.table import current_label_version
from mars_assets.lake import Lake
from mars_assets.sample.server import serve
from mars_assets.storage.files import read_json, read_table
from mars_assets_tests.browser import needed_chromium, open_page
from mars_assets_tests.real_subset import browse_archive, coco_subset, folder_subset
from mars_assets_tests.shell import PROJECT, Shell, dagster_dev

pytestmark = pytest.mark.ui

OBSERVATION = "ESP_011472_1225"
PICTURE = 'img[src^="data:image/png"]'
SECONDS = 240  # for anything to happen, on a machine that is busy with other tests
T = TypeVar("T")


@dataclass
class Workplace:
    """A lake, and the UI on it."""

    lake: Lake
    url: str
    killed: set[str] = field(default_factory=set)
    """Runs that a test killed."""

    def ask(self, query: str, **variables: Any) -> Any:
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=SECONDS
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def runs(self) -> list[dict[str, Any]]:
        """The latest first."""
        fields = "runId status assetSelection { path } tags { key value }"
        return self.ask(f"{{ runsOrError {{ ... on Runs {{ results {{ {fields} }} }} }} }}")["runsOrError"]["results"]

    def launch(self, asset: str, config: dict[str, Any] | None = None, partition: str = "") -> str:
        """What the button sends. Returns the run's id."""
        selector = {
            "repositoryLocationName": "mars_assets.definitions",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]}],
        }
        answer = self.ask(
            "mutation Launch($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {"
            " __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            params={
                "selector": selector,
                "runConfigData": config or {},
                "mode": "default",
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}] if partition else []},
            },
        )["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def run(self, run_id: str) -> dict[str, Any]:
        return next(run for run in self.runs() if run["runId"] == run_id)

    def ended(self, run_id: str) -> str:
        """How a run ends, once it has: its status, and the errors of what failed."""
        wait(lambda: self.run(run_id)["status"] in ("SUCCESS", "FAILURE"))
        failures = (
            "query Failures($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events { ... on ErrorEvent"
            " { error { message causes { message } } } ... on MessageEvent { message eventType } } } } }"
        )
        events = self.ask(failures, run=run_id)["logsForRun"]["events"]
        return "\n".join([self.run(run_id)["status"], *(str(event) for event in events if event.get("error"))])

    def rest(self) -> None:
        """Waits until no run is going on; none may have failed but those that were killed."""
        wait(lambda: all(run["status"] in ("SUCCESS", "FAILURE") for run in self.runs()))
        assert {run["status"] for run in self.runs() if run["runId"] not in self.killed} <= {"SUCCESS"}

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of the history, the oldest first."""
        table = self.lake.metrics("cls_evaluation")
        rows = read_table(table, "cls_evaluation").to_dict("records") if table.exists() else []
        return sorted(rows, key=lambda row: row["measured"])


def wait(found: Callable[[], T | None], seconds: float = SECONDS) -> T:
    """What is found once it is there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.5)
    raise AssertionError(f"never came in {seconds} s")


@pytest.fixture(scope="module")
def browser() -> str:
    return needed_chromium()


@pytest.fixture(scope="module")
def workplace(browser: str, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    shell = Shell(tmp_path_factory.mktemp("ui") / "clone")
    shell.lake.inbox.mkdir(parents=True)
    exports = shared / "data/exports"
    coco_subset(
        exports / "craters.v1.coco-segmentation.zip", shell.lake.inbox / "craters.v1.zip", {"train": 4, "valid": 2}
    )
    folder_subset(exports / "crater-tiles.v1.folder.zip", shell.lake.inbox / "tiles.v1.zip", {"train": 6, "valid": 4})
    shell.materialize("labelled_crops,reflectance,imputed_post_norm,prithvi_weights")
    browse_archive(shared, shell.folder / "archive")
    with (
        serve(shell.folder / "archive") as archive,
        dagster_dev(shell.folder, {**shell.clean, "MARS_HIRISE_ARCHIVE": archive, "MARS_CONTACT": "tests"}) as url,
    ):
        yield Workplace(shell.lake, url)


@pytest.fixture
def trained(workplace: Workplace) -> Workplace:
    """With a classification model in use."""
    if not (workplace.lake.model("cls_model") / "current.json").exists():
        config = yaml.safe_load((PROJECT / "recipes/cls_quick.yaml").read_text())
        assert workplace.ended(workplace.launch("cls_model", config)) == "SUCCESS"
    return workplace


@pytest.fixture
def evaluated(trained: Workplace) -> Workplace:
    """With an evaluation, which nobody asks for: it follows the model."""
    wait(trained.evaluations)
    trained.rest()
    return trained


@pytest.fixture
def new_export(workplace: Workplace, shared: Path, tmp_path: Path) -> Iterator[Path]:
    """A newer version of the project of tiles, outside the inbox; afterwards inbox and labels are as before."""
    before = current_label_version(workplace.lake)
    export = tmp_path / "tiles.v2.zip"
    folder_subset(shared / "data/exports/crater-tiles.v1.folder.zip", export, {"train": 6, "valid": 8})
    yield export
    (workplace.lake.inbox / export.name).unlink()
    wait(lambda: current_label_version(workplace.lake) == before)  # it is read by itself
    workplace.rest()  # until its chips are computed, a model is refused


@pytest.fixture(scope="module")
def page(browser: str, workplace: Workplace) -> Iterator[Page]:
    with open_page(browser, workplace.url) as page:
        yield page


def materialize_by_the_button(page: Page, asset: str) -> None:
    page.goto(f"/assets/{asset}")
    page.locator("button", has_text="Materialize").first.click()


def dialog(page: Page) -> Locator:
    return page.locator('[role="dialog"][aria-modal="true"]')


def confirm(page: Page, optional: str) -> None:
    """The question whether to go on without an asset above that was never made."""
    expect(dialog(page)).to_contain_text(optional)
    dialog(page).get_by_text("Confirm").click()


def look_at_a_picture(page: Page) -> None:
    page.get_by_text("[Show Markdown]").first.click()
    picture = dialog(page).locator(PICTURE)
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => picture.naturalWidth") > 100


def test_the_graph_opens(page: Page) -> None:
    page.goto("/asset-groups")
    for group in ("imagery", "labels", "tensors", "foundation", "models", "evaluation", "experiments"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    page.get_by_text("models", exact=True).last.click()
    for asset in ("cls_model", "seg_model"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()


def test_a_model_is_trained_from_the_launchpad(workplace: Workplace, page: Page) -> None:
    page.goto("/assets/cls_model")
    materialize = page.locator("button", has_text="Materialize").first
    expect(materialize).to_be_enabled()
    materialize.locator("xpath=following::button[1]").click()
    page.get_by_text("Open launchpad").click()
    confirm(page, "mars_weights")
    editor = page.locator(".CodeMirror")
    editor.evaluate(
        "(editor, text) => editor.CodeMirror.setValue(text)", (PROJECT / "recipes/cls_quick.yaml").read_text()
    )
    expect(dialog(page).get_by_text("No errors")).to_be_visible()
    dialog(page).locator("button", has_text="Materialize").click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=1000 * SECONDS)
    assert read_json(workplace.lake.model("cls_model") / "current.json")["version"]

    page.goto("/assets/cls_model")
    for shown in ("best validation", "label version", "valid_balanced_accuracy"):
        expect(page.get_by_text(shown, exact=True).first).to_be_visible()
    look_at_a_picture(page)


@pytest.mark.usefixtures("evaluated")
def test_the_new_model_is_evaluated_with_nobody_touching_anything(page: Page) -> None:
    page.goto("/assets/cls_evaluation")
    look_at_a_picture(page)


def test_an_observation_is_added_and_its_partition_made(workplace: Workplace, page: Page) -> None:
    workplace.lake.observations_csv.write_text(f"id,note\n{OBSERVATION},the real one\n")
    materialize_by_the_button(page, "observations")
    confirm(page, "hirise_index")
    partitions = '{ assetNodeOrError(assetKey: {path: ["crops"]}) { ... on AssetNode { partitionKeys } } }'
    wait(lambda: OBSERVATION in workplace.ask(partitions)["assetNodeOrError"]["partitionKeys"])
    workplace.rest()  # a run registers partitions before it says that it made the table, and the UI asks for the table
    materialize_by_the_button(page, "hirise_images")
    dialog(page).get_by_text("Missing", exact=True).click()
    expect(dialog(page)).to_contain_text(OBSERVATION)
    dialog(page).locator("button", has_text="Launch").click()
    wait(lambda: list(workplace.lake.products(OBSERVATION).glob("*.jpg")))
    run_id = workplace.launch("crops", partition=OBSERVATION)
    assert workplace.ended(run_id) == "SUCCESS"
    assert len(list(workplace.lake.crops(OBSERVATION).glob("current/*.png"))) == 14
    page.goto(f"/assets/crops?view=partitions&partition={OBSERVATION}")
    look_at_a_picture(page)


def test_labels_put_into_the_inbox_become_a_new_row_by_themselves(
    evaluated: Workplace, page: Page, new_export: Path
) -> None:
    workplace = evaluated
    (before,) = workplace.evaluations()
    shutil.copy(new_export, workplace.lake.inbox)
    _, after = wait(lambda: rows if len(rows := workplace.evaluations()) > 1 else None)
    assert after["label_version"] != before["label_version"]
    assert after["model_version"] == before["model_version"], "nothing was trained"
    assert (before["n"], after["n"]) == (8, 16)
    assert after["change"] == after["balanced_accuracy"] - before["balanced_accuracy"]
    workplace.rest()
    page.goto("/assets/cls_evaluation")
    expect(page.get_by_text(str(after["label_version"])).first).to_be_visible()


def test_a_run_that_dies_frees_the_device(trained: Workplace) -> None:
    workplace = trained
    config = {"ops": {"cls_model": {"config": {"steps": 100_000, "batch_size": 2}}}}
    long = workplace.launch("cls_model", config)
    workplace.killed.add(long)
    checkpoints = workplace.lake.model("cls_model")
    wait(lambda: list(checkpoints.glob("*/training/*/[!.]*.pt")))
    (process,) = (tag["value"] for tag in workplace.run(long)["tags"] if tag["key"] == PROCESS_TAG)
    holders = '{ instance { concurrencyLimit(concurrencyKey: "gpu") { claimedSlots { runId } } } }'
    (slot,) = workplace.ask(holders)["instance"]["concurrencyLimit"]["claimedSlots"]
    assert slot["runId"] == long
    psutil.Process(int(process.split()[1])).send_signal(signal.SIGKILL)
    wait(lambda: not workplace.ask(holders)["instance"]["concurrencyLimit"]["claimedSlots"], 90)
    assert workplace.ended(workplace.launch("cls_evaluation")) == "SUCCESS"
    assert workplace.ended(long).startswith("FAILURE")
