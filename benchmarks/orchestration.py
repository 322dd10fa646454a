"""Dagster's share of the time.

Measures a command where nothing is to do, what a year of history costs the UI and the sensors, and how long new labels
take from the inbox to the evaluation. All on a small lake of the synthetic sample, computed once through Dagster, with
both models trained for a few steps; three parts:

``noop``     ``dagster asset materialize`` of existing assets, over the same command on a project of one empty asset;
and loading the definitions, over importing Dagster. ``history``  a year: 1,000 label versions, each with tensors, the
evaluations of both models and all checks; weekly trainings; 500 observations with crops. Written as events of no run,
with the metadata of the assets themselves. Timed are the UI's pages, until the last of a page's requests is answered,
and a tick of every sensor. ``arrival``  from a zip of 30 images copied into the inbox of a running ``dagster dev`` to
their row of ``cls_evaluation``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pandas as pd
import requests
from labels import TILE, pictures, write_tiles
from measure import measure, report, verdict

if TYPE_CHECKING:
    import dagster as dg

    from mars_assets.lake import Lake

PROJECT = Path(__file__).parent.parent
MODULE = "mars_assets.definitions"
IMAGERY = ("hirise_images", "crops")
FOLLOWING = ("labelled_crops", "reflectance", "imputed_post_norm", "cls_evaluation", "seg_evaluation")
MODELS = ("cls_model", "seg_model")
EVALUATIONS = ("cls_evaluation", "seg_evaluation")
NOTHING_TO_DO = ("labelled_crops", "reflectance", *MODELS, *EVALUATIONS)
BARE, DEFINITIONS, TICK, CHANGED = "bare project", "definitions", "tick of ", ", new labels"
"""Names of sides, and how others begin and end."""
DAYS, WEEKS, VERSIONS, OBSERVATIONS = 365, 52, 1000, 500
DATA_VERSION = "dagster/data_version"
INPUT_VERSION, INPUT_EVENT = "dagster/input_data_version/", "dagster/input_event_pointer/"
NEW_IMAGES = 30
SETTLED, PATIENCE = 20.0, 600.0
"""Seconds without a run after which nothing more is expected, and those after which nothing more is waited for."""
READY, FILLED = "recipes.json", "year"
"""Files that are there when the lake is made, and when the year is written."""


@dataclass(frozen=True)
class Home:
    """A lake with its Dagster instance.

    Args:
        folder: of both.
    """

    folder: Path

    @property
    def lake(self) -> Lake:
        from mars_assets.lake import Lake

        return Lake.at(self.folder / "lake")

    @property
    def instance(self) -> Path:
        return self.folder / "dagster"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.instance),
            "MARS_LAKE": str(self.lake.root),
            "MARS_CONTACT": "benchmark",
        }

    def write_settings(self) -> None:
        """The project's own, with everything below this folder."""
        from mars_assets.instance import SETTINGS_FILE, write_instance_settings

        self.instance.mkdir(parents=True, exist_ok=True)
        (self.instance / SETTINGS_FILE).unlink(missing_ok=True)  # a copied one names another folder
        write_instance_settings(self.instance)

    def copy(self, folder: Path) -> Home:
        shutil.copytree(self.folder, folder)
        home = Home(folder)
        home.write_settings()
        return home

    def run(self, *arguments: str, **environment: str) -> None:
        """A ``dagster`` command on the project."""
        dagster(*arguments, "-m", MODULE, environment={**self.environment, **environment}, folder=self.folder)


def tool(name: str) -> str:
    """A command of the environment that this Python is of."""
    return str(Path(sys.executable).with_name(name))


def dagster(*arguments: str, environment: Mapping[str, str], folder: Path) -> None:
    """Runs a ``dagster`` command; shows what it said only if it fails."""
    done = subprocess.run(  # noqa: S603 - our own command, no shell
        [tool("dagster"), *arguments],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"dagster {' '.join(arguments)} failed:\n{done.stdout[-4000:]}")


def recipe(model: str) -> Path:
    return PROJECT / "recipes" / f"{model.removesuffix('_model')}_quick.yaml"


def prepare(folder: Path) -> Home:
    """The sample, cut down to four scenes, with everything made of it once."""
    import yaml

    from mars_assets.imagery.products import read_observations_csv
    from mars_assets.sample.make import Plan, make_sample
    from mars_assets.sample.server import serve

    print("making a small lake", flush=True)
    home = Home(folder)
    home.write_settings()
    plan = Plan(train=1, valid=1, test=1, unlabelled=1, height=1664, width=1664)
    make_sample(home.lake, plan=plan)
    names = sorted(read_observations_csv(home.lake.observations_csv)["observation"])
    with serve(home.lake.sample) as url:
        home.run("asset", "materialize", "--select", "hirise_index,observations", MARS_HIRISE_ARCHIVE=url)
        scope = ["--partition-range", f"{names[0]}...{names[-1]}"]
        home.run("asset", "materialize", "--select", ",".join(IMAGERY), *scope, MARS_HIRISE_ARCHIVE=url)
    ops = {model: yaml.safe_load(recipe(model).read_text())["ops"][model] for model in MODELS}
    recipes = folder / "recipes.tmp.json"
    recipes.write_text(json.dumps({"ops": ops}))
    home.run("job", "execute", "-j", "experiment", "-c", str(recipes))
    recipes.rename(folder / READY)
    return home


# Nothing to do


def bare_project(folder: Path) -> None:
    """A project of one asset that does nothing, and an instance with the same settings."""
    home = Home(folder)
    home.write_settings()
    # Steps in one process, as in this project: Dagster's default, a process for each, takes longer.
    (folder / "bare.py").write_text(
        "import dagster as dg\n\n\n"
        "@dg.asset\n"
        "def nothing() -> dg.MaterializeResult:\n"
        "    return dg.MaterializeResult()\n\n\n"
        "defs = dg.Definitions(assets=[nothing], executor=dg.in_process_executor)\n"
    )


def command_side(work: Path, name: str) -> None:
    """A command as a person runs it, from its start to its end."""
    if name == BARE:
        bare = Home(work / "bare")
        command = ["asset", "materialize", "--select", "nothing", "-m", "bare", "-d", str(bare.folder)]
        report(lambda: dagster(*command, environment=bare.environment, folder=bare.folder))
        return
    config = ["-c", str(recipe(name))] if name in MODELS else []
    report(lambda: Home(work / "ready").run("asset", "materialize", "--select", name, *config))


def definitions_side(work: Path, name: str) -> None:
    import dagster  # noqa: F401 - what is timed comes on top of it

    def load() -> None:
        from mars_assets.definitions import defs

        defs.get_repository_def()

    report(load)


def nothing_to_do(work: Path, repeats: int) -> list[bool]:
    if not (work / "bare").exists():
        bare_project(work / "bare")
    sides = (BARE, *NOTHING_TO_DO, DEFINITIONS)
    found = measure(Path(__file__), {name: ["--work", str(work)] for name in sides}, repeats)
    over = {name: found[name].seconds - found[BARE].seconds for name in NOTHING_TO_DO}
    holds = [verdict(f"{name}, seconds over a bare project", over[name], 2, at_least=False) for name in over]
    holds.append(verdict("loading the definitions, seconds", found[DEFINITIONS].seconds, 2, at_least=False))
    script = "import sys, mars_assets.definitions; sys.exit('torch' in sys.modules)"
    imported = subprocess.run([sys.executable, "-c", script]).returncode  # noqa: S603 - our own script
    return [*holds, verdict("imports of torch by the definitions", imported, 0, at_least=False)]


# A year of history


def fill(home: Home) -> None:
    """Writes the year: events like the last ones of each asset, with data versions that follow from each other."""
    import dagster as dg

    for name in EVALUATIONS:
        lengthen(home.lake, name)
    # What they show of themselves has their history in it.
    home.run("asset", "materialize", "--select", ",".join(EVALUATIONS))
    names = [f"ESP_{100_000 + number:06d}_1800" for number in range(OBSERVATIONS)]
    now = time.time()
    with dg.DagsterInstance.from_config(str(home.instance)) as instance:
        year = Year(instance)
        instance.add_dynamic_partitions("observation", names)
        models: dict[str, str] = {}
        for number in range(VERSIONS):
            # Events take their time from the clock.
            with mock.patch("time.time", return_value=now - DAYS * 86_400 * (1 - number / VERSIONS)):
                if number % (VERSIONS // OBSERVATIONS) == 0:
                    name = names[number // (VERSIONS // OBSERVATIONS)]
                    for asset in IMAGERY:
                        year.made(asset, f"{asset} of {name}", {}, name)
                labels = f"labels {number}"
                year.observed("roboflow_exports", labels)
                inputs = {"roboflow_exports": labels, **dict.fromkeys(FOLLOWING, labels)}
                if number % (VERSIONS // WEEKS) == 0:
                    models = {model: f"{model} {number}" for model in MODELS}
                    for model in MODELS:
                        year.made(model, models[model], inputs)
                for asset in FOLLOWING:
                    year.made(asset, labels, {**inputs, **models})
            if number % 100 == 99:
                print(f"  {number + 1} label versions written", flush=True)


def lengthen(lake: Lake, name: str) -> None:
    """Gives an evaluation's table the rows of a year, copies before its own; what is shown of the short one goes."""
    from mars_assets.storage.files import read_table, write_json, write_table

    path = lake.metrics(name)
    rows = read_table(path, name)
    copies = [rows.assign(label_version=f"{number:064x}") for number in range(VERSIONS - 1)]
    table = pd.concat([*copies, rows], ignore_index=True)
    write_table(path, table)
    write_json(path.with_suffix(".json"), json.loads(table.to_json(orient="records")))
    lake.shown(name).unlink(missing_ok=True)


class Year:
    """Writes events as the assets themselves wrote them the last time."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        import dagster as dg

        from mars_assets.definitions import defs

        self._instance = instance
        graph = defs.resolve_asset_graph()
        self._checks = {key.to_user_string(): graph.get(key).check_keys for key in graph.get_all_asset_keys()}
        self._last: dict[str, dg.AssetMaterialization] = {}
        for name in (*IMAGERY, *FOLLOWING, *MODELS):
            event = instance.get_latest_materialization_event(dg.AssetKey(name))
            last = event.asset_materialization if event else None
            assert last is not None, f"{name} was never made"
            self._last[name] = last

    def observed(self, name: str, version: str) -> None:
        import dagster as dg

        rows = (
            "| file | project | version | sha256 |\n|---|---|---|---|\n" + 2 * "| craters.v1.zip | craters | 1 | 0 |\n"
        )
        observation = dg.AssetObservation(
            name, metadata={"exports": dg.MetadataValue.md(rows)}, tags={DATA_VERSION: version}
        )
        self._instance.report_runless_asset_event(observation)

    def made(self, name: str, version: str, inputs: Mapping[str, str], partition: str | None = None) -> None:
        """An asset was made of other inputs, and all its checks passed."""
        import dagster as dg

        last = self._last[name]
        tags = {tag: value for tag, value in (last.tags or {}).items() if not tag.startswith(INPUT_EVENT)}
        tags |= {tag: inputs[source] for tag in tags if (source := tag.removeprefix(INPUT_VERSION)) in inputs}
        tags[DATA_VERSION] = version
        made = dg.AssetMaterialization(name, metadata=dict(last.metadata), partition=partition, tags=tags)
        self._instance.report_runless_asset_event(made)
        for check in self._checks[name]:
            metadata = {"looked at": 745, "problems": 0}
            passed = dg.AssetCheckEvaluation(
                asset_key=check.asset_key, check_name=check.name, passed=True, metadata=metadata
            )
            self._instance.report_runless_asset_event(passed)


# What Dagster 1.13's own pages ask for, less what is the same with and without a history.
_METADATA = """
  metadataEntries {
    label description
    ... on PathMetadataEntry { path }
    ... on JsonMetadataEntry { jsonString }
    ... on TextMetadataEntry { text }
    ... on MarkdownMetadataEntry { mdStr }
    ... on FloatMetadataEntry { floatValue }
    ... on IntMetadataEntry { intValue intRepr }
    ... on BoolMetadataEntry { boolValue }
    ... on TableSchemaMetadataEntry { schema { columns { name description type tags { key value } } } }
  }
"""
_RUN = "runOrError { ... on Run { id mode status pipelineName repositoryOrigin { repositoryName } } } runId"
_CHECK = f"""
  id runId status stepKey timestamp run {{ id status }}
  evaluation {{ severity timestamp description partition targetMaterialization {{ timestamp runId }} {_METADATA} }}
"""
_LATEST = "assetsLatestInfo(assetKeys: $keys) { id unstartedRunIds inProgressRunIds latestRun { id status endTime } }"
QUERIES = {
    "records": "{ assetRecordsOrError(limit: 1000) { ... on AssetRecordConnection { assets { id key { path } } cursor "
    "} } }",
    "workspace": """{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
      ... on RepositoryLocation { repositories {
        assetNodes {
          id groupName isPartitioned hasAssetChecks assetKey { path } dependencyKeys { path } jobNames kinds
          changedReasons
          partitionDefinition { dimensionTypes { type dynamicPartitionsDefinitionName } }
          description(characterLimit: 240) tags { key value }
        }
        sensors { id name sensorState { id status } } schedules { id name scheduleState { id status } }
      } }
    } } } } }""",
    "live": f"""query ($keys: [AssetKeyInput!]!) {{
      assetNodes(assetKeys: $keys, loadMaterializations: true) {{
        id opNames assetKey {{ path }}
        assetMaterializations(limit: 1) {{ timestamp runId stepKey }}
        assetObservations(limit: 1) {{ timestamp runId stepKey }}
        assetChecksOrError {{ ... on AssetChecks {{ checks {{
          name canExecuteIndividually
          executionForLatestMaterialization {{ id runId status timestamp evaluation {{ severity }} }}
        }} }} }}
        partitionStats {{ numMaterialized numMaterializing numPartitions numFailed }}
      }}
      {_LATEST}
    }}""",
    "stale": """query ($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) {
      id assetKey { path } staleStatus
      staleCauses { key { path } reason category dependency { path } }
    } }""",
    "definition": """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
      id hasDefinitionOrRecord assetMaterializations(limit: 1) { timestamp runId }
      definition {
        id pools opVersion groupName jobNames description kinds automationCondition { label expandedLabel }
        partitionKeysByDimension { name } configField { name configType { key
          recursiveConfigTypes { key description } } }
        targetingInstigators { ... on Sensor { id name sensorState { id status } } ... on Schedule { id name } }
      }
    } } }""",
    "overview": f"""query ($key: AssetKeyInput!) {{ assetOrError(assetKey: $key) {{ ... on Asset {{
      id
      assetMaterializations(limit: 1) {{ timestamp runId partition {_METADATA} }}
      assetObservations(limit: 1) {{ timestamp runId partition {_METADATA} }}
    }} }} }}""",
    "events": f"""query ($key: AssetKeyInput!, $keys: [AssetKeyInput!]!, $after: String) {{
      {_LATEST}
      assetOrError(assetKey: $key) {{ ... on Asset {{ assetEventHistory(
        limit: 100, afterTimestampMillis: $after,
        eventTypeSelectors: [MATERIALIZATION, OBSERVATION, FAILED_TO_MATERIALIZE]
      ) {{
        cursor
        results {{
          ... on MaterializationEvent {{ partition timestamp stepKey tags {{ key value }} {_RUN} {_METADATA} }}
          ... on ObservationEvent {{ partition timestamp stepKey tags {{ key value }} {_RUN} {_METADATA} }}
        }}
      }} }} }}
    }}""",
    "partitions": """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
      id partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses { ... on DefaultPartitionStatuses {
        materializedPartitions materializingPartitions failedPartitions
      } }
    } } }""",
    "checks": f"""query ($key: AssetKeyInput!) {{ assetNodeOrError(assetKey: $key) {{ ... on AssetNode {{
      id assetChecksOrError {{ ... on AssetChecks {{ checks {{
        name description blocking executionForLatestMaterialization {{ {_CHECK} }}
      }} }} }}
    }} }} }}""",
    "check": f"""query ($key: AssetKeyInput!, $check: String!) {{
      assetCheckExecutions(assetKey: $key, checkName: $check, limit: 31) {{ {_CHECK} }}
    }}""",
}
CONNECTIONS = 6
"""That a browser opens to one server."""
AT_ONCE = 10
"""Assets that the UI asks about in one request."""


def pages(every: Sequence[str]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """What each page asks: queries with their variables.

    Args:
        every: the names of all assets.
    """
    week = str(int((time.time() - 7 * 86_400) * 1000))
    always: list[tuple[str, dict[str, Any]]] = [("records", {}), ("workspace", {})]

    def state(names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        parts = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
        return [(query, {"keys": [_key(name) for name in part]}) for part in parts for query in ("live", "stale")]

    def page(name: str, *more: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        key = _key(name)
        asked = [("definition", {}), *more]
        return [*always, *state([name]), *((query, {"key": key, "keys": [key], **values}) for query, values in asked)]

    return {
        "the graph, all groups open": [*always, *state(every)],
        **{
            name: page(name, ("overview", {}), ("events", {"after": week}))
            for name in ("cls_evaluation", "seg_evaluation", "labelled_crops", "crops")
        },
        "events of cls_evaluation": page("cls_evaluation", ("events", {})),
        "events of crops": page("crops", ("events", {})),
        "partitions of crops": page("crops", ("partitions", {})),
        "checks of labelled_crops": page("labelled_crops", ("checks", {}), ("check", {"check": "label_schema"})),
    }


def _key(name: str) -> dict[str, list[str]]:
    return {"path": [name]}


def ask(url: str, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
    body = {"query": query, "variables": variables or {}}
    answer = requests.post(f"{url}/graphql", json=body, timeout=PATIENCE).json()
    if "errors" in answer:
        sys.exit(f"the server refuses a query: {answer['errors']}")
    data: dict[str, Any] = answer["data"]
    return data


def timed(url: str, query: str, variables: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    ask(url, QUERIES[query], variables)
    return time.perf_counter() - start


def answers(home: Home, repeats: int) -> list[bool]:
    """Times the UI's pages."""
    with served(home, "dagster-webserver") as url, ThreadPoolExecutor(CONNECTIONS) as pool:
        nodes = ask(url, "{ assetNodes { assetKey { path } } }")["assetNodes"]
        found: dict[str, list[float]] = {}
        longest: dict[str, tuple[float, str]] = {}
        for turn in range(repeats):
            for page, asked in pages(sorted(node["assetKey"]["path"][0] for node in nodes)).items():
                start = time.perf_counter()
                each = list(pool.map(lambda one: timed(url, *one), asked))
                found.setdefault(page, []).append(time.perf_counter() - start)
                longest[page] = max(zip(each, (query for query, _ in asked), strict=True))
                print(
                    f"  round {turn + 1}: {page:26} {found[page][-1]:6.2f} s, {longest[page][1]} the longest",
                    flush=True,
                )
    counted = slice(1 if repeats > 2 else 0, None)
    return [
        verdict(f"{page}: seconds", statistics.median(seconds[counted]), 2, at_least=False)
        for page, seconds in found.items()
    ]


def tick_side(work: Path, name: str) -> None:
    """One look of a sensor at the year, by a process that has just loaded the definitions."""
    home = Home(work / "history")
    os.environ |= home.environment
    import dagster as dg

    from mars_assets.definitions import defs

    sensor = defs.get_repository_def().get_sensor_def(name.removeprefix(TICK).removesuffix(CHANGED))
    with dg.DagsterInstance.from_config(str(home.instance)) as instance:
        if isinstance(sensor, dg.AutomationConditionSensorDefinition):
            evaluate = functools.partial(dg.evaluate_automation_conditions, defs, instance, sensor.asset_selection)
            if not name.endswith(CHANGED):
                report(evaluate)
                return
            cursor = evaluate().cursor
            Year(instance).observed("roboflow_exports", f"labels of {time.time()}")
            report(lambda: evaluate(cursor=cursor))
            return
        context = dg.build_sensor_context(instance, definitions=defs, resources=dict(defs.resources or {}))
        report(lambda: sensor.evaluate_tick(context))


def ticks(work: Path, repeats: int) -> list[bool]:
    """Time every sensor of the definitions.

    Automation conditions are evaluated from nothing, and when there is a new label version.
    """
    import dagster as dg

    from mars_assets.definitions import defs

    sides = []
    for sensor in defs.get_repository_def().sensor_defs:
        sides.append(TICK + sensor.name)
        if isinstance(sensor, dg.AutomationConditionSensorDefinition):
            sides.append(TICK + sensor.name + CHANGED)
    found = measure(Path(__file__), {name: ["--work", str(work)] for name in sides}, repeats)
    return [verdict(f"{side}: seconds", found[side].seconds, 5, at_least=False) for side in sides]


def history(work: Path, repeats: int) -> list[bool]:
    home = Home(work / "history")
    if not (home.folder / FILLED).exists():
        print("writing a year of history", flush=True)
        shutil.rmtree(home.folder, ignore_errors=True)
        Home(work / "ready").copy(home.folder)
        fill(home)
        (home.folder / FILLED).touch()
    size = sum(path.stat().st_size for path in home.instance.rglob("*") if path.is_file())
    print(f"the instance's storage: {size / 1e6:.0f} MB")
    return [*answers(home, repeats), *ticks(work, repeats)]


# From the inbox to the evaluation


@contextlib.contextmanager
def served(home: Home, *command: str) -> Iterator[str]:
    """A server of Dagster's; gives its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home.folder / "server.log"
    with open(log, "w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [tool(command[0]), *command[1:], "-m", MODULE, "-h", "127.0.0.1", "-p", str(port)],
            env=home.environment,
            cwd=home.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def answering() -> bool:
        if process.poll() is not None:
            sys.exit(f"{' '.join(command)} ended by itself:\n{log.read_text()[-4000:]}")
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{url}/server_info", timeout=5).ok
        return False

    try:
        wait(answering, f"{' '.join(command)} does not answer: {log}")
        yield url
    finally:
        # The parent alone is told: it stops its children in order.
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(reached: Callable[[], bool], otherwise: str) -> float:
    """Waits for something. Returns the seconds."""
    start = time.monotonic()
    while not reached():
        if time.monotonic() - start > PATIENCE:
            sys.exit(f"not in {PATIENCE:.0f} s: {otherwise}")
        time.sleep(0.2)
    return time.monotonic() - start


def quiet(url: str) -> bool:
    """Whether every sensor that is on has looked twice, and no run is waiting or in progress."""
    found = ask(
        url,
        """{
          workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { ... on RepositoryLocation {
            repositories { sensors { name sensorState { status ticks(limit: 2) { status } } } }
          } } } } }
          runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED]}) { ... on Runs { results { id } } }
        }""",
    )
    (entry,) = found["workspaceOrError"]["locationEntries"]
    states = [sensor["sensorState"] for sensor in entry["locationOrLoadError"]["repositories"][0]["sensors"]]
    looked = all(len(state["ticks"]) == 2 for state in states if state["status"] == "RUNNING")
    return looked and not found["runsOrError"]["results"]


def settle(url: str) -> None:
    """Waits until nothing has happened for a while."""
    since = time.monotonic()

    def settled() -> bool:
        nonlocal since
        if not quiet(url):
            since = time.monotonic()
        return time.monotonic() - since > SETTLED

    wait(settled, "sensors that have looked, and no run")


def arrival(work: Path, repeats: int) -> list[bool]:
    from mars_assets.labels.exports import label_version
    from mars_assets.labels.inbox import current_exports
    from mars_assets.storage.files import read_table
    from mars_assets.storage.hashing import sha256_file

    shutil.rmtree(work / "arrival", ignore_errors=True)
    home = Home(work / "ready").copy(work / "arrival")
    images = pictures(NEW_IMAGES * repeats, TILE, new=True)
    taken = []
    with served(home, "dagster", "dev") as url:
        for turn in range(repeats):
            settle(url)
            export = home.folder / f"more-tiles-{turn}.v1.folder.zip"
            write_tiles(export, images[NEW_IMAGES * turn : NEW_IMAGES * (turn + 1)])
            shutil.copy(export, home.lake.inbox)
            version = label_version([sha256_file(path) for path in current_exports(home.lake.inbox)])

            def evaluated(version: str = version) -> bool:
                table = read_table(home.lake.metrics("cls_evaluation"), "cls_evaluation", ["label_version"])
                return version in set(table["label_version"])

            taken.append(wait(evaluated, f"a row of cls_evaluation; see {home.folder / 'server.log'}"))
            print(f"  round {turn + 1}: {taken[-1]:6.1f} s", flush=True)
        settle(url)
    return [verdict("from the inbox to the evaluation, seconds, the longest", max(taken), 90, at_least=False)]


PARTS: dict[str, Callable[[Path, int], list[bool]]] = {"noop": nothing_to_do, "history": history, "arrival": arrival}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument(
        "--folder", type=Path, help="where lakes and instances are made and kept; a temporary one by default"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "MARS_", "ROBOFLOW_"))]:
        del os.environ[name]  # somebody's own lake and projects
    if options.side:
        side = tick_side if options.side.startswith(TICK) else command_side
        (definitions_side if options.side == DEFINITIONS else side)(options.work, options.side)
        return 0
    work = options.folder or Path(tempfile.mkdtemp(prefix="mars-bench-"))
    work = work.resolve()
    try:
        if not (work / "ready" / READY).exists():
            prepare(work / "ready")
        parts = {options.only: PARTS[options.only]} if options.only else PARTS
        holds = [held for part in parts.values() for held in part(work, options.repeats)]
    finally:
        if options.folder is None:
            shutil.rmtree(work, ignore_errors=True)
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
