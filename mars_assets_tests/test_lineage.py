"""The whole graph on real images and labels, at a size that any machine bears."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from mars_assets.definitions import build_defs
from mars_assets.imagery.crops import read_crops
from mars_assets.lake import Lake
from mars_assets.models.versions import current_model
from mars_assets.prithvi.config import VARIANTS
from mars_assets.resources import ArchiveResource, ComputeResource, LakeResource
from mars_assets.sample.index import write_index
from mars_assets.sample.server import serve
from mars_assets.sample.terrain import SceneSpec
from mars_assets.storage.files import read_json, read_provenance, read_table
from mars_assets.storage.published import version_in_use
from mars_assets_tests.real_subset import browse_archive, coco_subset, folder_subset

pytestmark = pytest.mark.slow

OBSERVATION = "ESP_011472_1225"
ALL = [
    "labelled_crops",
    "reflectance",
    "imputed_means",
    "imputed_pre_norm",
    "imputed_post_norm",
    "imputed_spectral",
    "prithvi_weights",
    "reconstruction_metrics",
    "cls_model",
    "seg_model",
    "cls_evaluation",
    "seg_evaluation",
]
RECIPES = Path(__file__).parent.parent / "recipes"


class Graph:
    """The definitions on one lake and one instance."""

    def __init__(self, lake: Lake, instance: dg.DagsterInstance, archive_url: str) -> None:
        self.lake, self.instance = lake, instance
        self.defs = build_defs(
            {
                "lake": LakeResource(root=str(lake.root)),
                "archive": ArchiveResource(base_url=archive_url, contact="tests"),
                "compute": ComputeResource(device="cpu", seed=3),
            }
        )

    def run(self, assets: list[str], config: dict[str, Any] | None = None, **options: Any) -> Any:
        job = self.defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            asset_selection=[dg.AssetKey(name) for name in assets],
            instance=self.instance,
            run_config=config or {},
            raise_on_error=False,
            **options,
        )


def quick() -> dict[str, Any]:
    """The quick recipes, which a person would pass with -c, and random weights of a tiny architecture from a file."""
    config: dict[str, Any] = {"ops": {}}
    for name in ("cls_quick", "seg_quick"):
        config["ops"] |= yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["ops"]
    return config


def metadata(result: Any, asset: str) -> dict[str, Any]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset)]
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture(scope="module")
def archive(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an archive with the real browse product."""
    root = tmp_path_factory.mktemp("archive")
    browse_archive(shared, root)
    write_index(root, [(SceneSpec(OBSERVATION, 40000, 4000, 0), 241.4)])
    with serve(root) as url:
        yield url


@dataclasses.dataclass
class State:
    """A lake as a run left it: tests take copies, so that each finds the same whichever of them run, in any order."""

    lake: Lake
    result: Any

    def copied(self, to: Path) -> Lake:
        return Lake.at(shutil.copytree(self.lake.root, to))


@pytest.fixture(scope="module")
def cut(archive: str, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    """Labels in the inbox, and the crops of one observation."""
    lake = Lake.at(tmp_path_factory.mktemp("cut") / "lake")
    lake.inbox.mkdir(parents=True)
    exports = shared / "data/exports"
    coco_subset(
        exports / "craters.v1.coco-segmentation.zip",
        lake.inbox / "craters.v1.coco-segmentation.zip",
        {"train": 5, "valid": 2},
    )
    folder_subset(
        exports / "crater-tiles.v1.folder.zip", lake.inbox / "crater-tiles.v1.folder.zip", {"train": 5, "valid": 4}
    )
    lake.observations_csv.write_text(f"id\n{OBSERVATION}\n")
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(lake, instance, archive)
        assert graph.run(["hirise_index", "observations"]).success
        assert instance.get_dynamic_partitions("observation") == [OBSERVATION]
        return State(lake, graph.run(["hirise_images", "crops"], partition_key=OBSERVATION))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Configuration of prithvi_weights: a checkpoint of a narrow encoder, as a file."""
    import torch

    from mars_assets.prithvi.model import PrithviMAE

    narrow = dataclasses.replace(
        VARIANTS["sample"].config,
        variant="narrow",
        embed_dim=48,
        depth=2,
        num_heads=3,
        decoder_embed_dim=32,
        decoder_depth=1,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "narrow.pt"
    torch.save(PrithviMAE(narrow).state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "narrow", dataclasses.replace(VARIANTS["sample"], config=narrow))
        yield {"prithvi_weights": {"config": {"source": "file", "variant": "narrow", "path": str(path)}}}


@pytest.fixture(scope="module")
def made(cut: State, archive: str, weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> State:
    """Everything from labels to evaluations."""
    lake = cut.copied(tmp_path_factory.mktemp("made") / "lake")
    config = quick()
    config["ops"] |= weights
    with dg.DagsterInstance.ephemeral() as instance:
        return State(lake, Graph(lake, instance, archive).run(ALL, config))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("observation", [OBSERVATION])
        yield instance


@pytest.fixture
def imagery(cut: State, archive: str, instance: dg.DagsterInstance, tmp_path: Path) -> Graph:
    """The graph on a copy of the lake of ``cut``."""
    return Graph(cut.copied(tmp_path / "lake"), instance, archive)


@pytest.fixture
def graph(made: State, archive: str, instance: dg.DagsterInstance, tmp_path: Path) -> Graph:
    """The graph on a copy of the lake of ``made``."""
    return Graph(made.copied(tmp_path / "lake"), instance, archive)


def test_the_real_browse_product_is_fetched_and_cut(cut: State) -> None:
    assert cut.result.success
    crops = read_crops(version_in_use(cut.lake.crops(OBSERVATION)))
    kept = crops[crops["kept"]]
    assert len(kept) == 14
    assert kept["row"].min() >= 76, "the first 76 rows have one band only"
    assert set(kept["height"]) == set(kept["width"]) == {512}
    assert set(crops["position_kind"]) == {"approximate"}
    assert crops["longitude"].between(241.3, 241.6).all(), "the index's corners place it"
    pictures = [value for name, value in metadata(cut.result, "crops").items() if "data:image/" in str(value)]
    assert len(pictures) == 2


def test_observations_are_chosen_by_a_query(imagery: Graph) -> None:
    def chosen(**query: Any) -> Any:
        return imagery.run(["observations"], {"ops": {"observations": {"config": {"query": query}}}})

    found = chosen(product="COLOR", longitude=[241, 242])
    assert found.success
    table = read_table(imagery.lake.observations, "observations")
    assert table["product"].tolist() == ["RGB.NOMAP.browse"], "what is listed keeps its product"
    assert len(table["corners"].iloc[0]) == 8
    assert read_provenance(imagery.lake.observations)["query"]["longitude"] == [241, 242]
    for wrong, message in (({"latitude": [50, 60]}, "no observation"), ({"latitude": [1]}, "two numbers")):
        failed = chosen(**wrong)
        assert not failed.success
        assert message in failed.failure_data_for_node("observations").user_failure_data.description


def test_a_file_that_is_there_is_asked_for_at_the_archive(imagery: Graph) -> None:
    again = imagery.run(["hirise_images"], partition_key=OBSERVATION)
    assert "| unchanged |" in metadata(again, "hirise_images")["partitions"]


def test_pretraining_goes_on_and_models_start_from_it(graph: Graph, shared: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared / "data/hirise_tiles.zip") as source, zipfile.ZipFile(tmp_path / "t.zip", "w") as few:
        for name in source.namelist()[:24:4]:
            few.writestr(name, source.read(name))
    recipe = {"images": str(tmp_path / "t.zip"), "steps": 2, "warmup_steps": 1, "batch_size": 4, "evaluate_every": 1}
    result = graph.run(["mars_weights"], {"ops": {"mars_weights": {"config": recipe}}})
    assert result.success
    said = metadata(result, "mars_weights")
    assert said["trained in this run"] is True
    assert "data:image/" in said["loss"]
    assert "data:image/" in said["reconstructions"]
    assert not metadata(graph.run(["mars_weights"], {"ops": {"mars_weights": {"config": recipe}}}), "mars_weights")[
        "trained in this run"
    ]
    before = current_model(graph.lake, "cls_model").version
    config = quick()
    config["ops"]["cls_model"]["config"]["encoder"] = "mars_weights"
    assert graph.run(["cls_model"], {"ops": {"cls_model": config["ops"]["cls_model"]}}).success
    model = current_model(graph.lake, "cls_model")
    assert model.version != before
    assert model.config["provenance"]["weights"] == f"mars_weights {current_model(graph.lake, 'mars_weights').version}"


def test_everything_materializes_from_labels_to_evaluations(made: State) -> None:
    first = made.result
    assert first.success
    table = {asset: metadata(first, asset) for asset in ALL}
    assert table["labelled_crops"]["dagster/row_count"] == 7 + 18
    assert table["reflectance"]["computed in this run"] == 25
    failed = [check.check_name for check in first.get_asset_check_evaluations() if check.blocking and not check.passed]
    assert failed == []
    assert len(first.get_asset_check_evaluations()) >= 9


def test_every_asset_shows_a_picture_or_a_table_and_says_where_its_files_lie(made: State) -> None:
    for asset in ALL:
        values = metadata(made.result, asset)
        text = [str(value) for value in values.values()]
        assert any("data:image/" in value or value.startswith("|") for value in text), asset
        assert any(key in values for key in ("file", "folder")), asset
        assert max(map(len, text)) < 32_000, f"{asset}: metadata lives in the event log"


def test_metrics_are_tables_with_twins(graph: Graph) -> None:
    reconstruction = read_json(graph.lake.metrics("reconstruction").with_suffix(".json"))
    assert {row["method"] for row in reconstruction} == {"means", "pre_norm", "post_norm"}
    assert all(row["rgb_loss_low"] <= row["rgb_loss"] <= row["rgb_loss_high"] for row in reconstruction)
    for name in ("cls_evaluation", "seg_evaluation"):
        (row,) = read_json(graph.lake.metrics(name).with_suffix(".json"))
        assert row["split"] == "valid"
        assert row["label_version"] == read_provenance(graph.lake.labelled_crops)["label_version"]


def test_models_carry_their_provenance(graph: Graph) -> None:
    for name in ("cls_model", "seg_model"):
        config = current_model(graph.lake, name).config
        assert config["provenance"]["method"] == "post_norm"
        assert config["provenance"]["weights_sha256"] == read_json(graph.lake.current_foundation)["sha256"]
        assert config["provenance"]["software"]["torch"]
        assert config["statistics"]["name"] == "v1"


def test_a_second_run_does_nothing_again(graph: Graph, weights: dict[str, Any]) -> None:
    def contents() -> dict[str, int]:
        kinds = ("tensors", "models", "labels", "foundation")
        return {
            str(path): path.stat().st_mtime_ns
            for kind in kinds
            for path in (graph.lake.root / kind).rglob("*")
            if path.suffix in (".tif", ".png", ".safetensors", ".pth", ".jpg")
        }

    before = contents()
    config = quick()
    config["ops"] |= weights
    second = graph.run(ALL, config)
    assert second.success
    assert contents() == before
    for asset in ("reflectance", "imputed_post_norm", "reconstruction_metrics"):
        assert metadata(second, asset)["computed in this run"] == 0
    for asset in ("cls_model", "seg_model"):
        assert metadata(second, asset)["trained in this run"] is False
    assert len(read_json(graph.lake.metrics("cls_evaluation").with_suffix(".json"))) == 1


def test_what_is_there_is_shown_without_importing_torch(graph: Graph) -> None:
    script = """
import sys
import dagster as dg
from mars_assets.assets import evaluation, labels, tensors
from mars_assets.resources import ComputeResource, LakeResource

lake, compute = LakeResource(root=sys.argv[1]), ComputeResource(device="cpu", seed=3)
labels.labelled_crops(dg.build_asset_context(), lake=lake)
tensors.reflectance(dg.build_asset_context(), config=tensors.ReflectanceConfig(), lake=lake)
for asset in evaluation.evaluation_assets:
    asset(dg.build_asset_context(), lake=lake, compute=compute)
print([name for name in ("torch", "lightning_fabric", "mmseg", "timm", "matplotlib", "sklearn") if name in sys.modules])
"""
    command = [sys.executable, "-c", script, str(graph.lake.root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_new_labels_cost_only_themselves_and_add_a_row(graph: Graph, shared: Path) -> None:
    folder_subset(
        shared / "data/exports/crater-tiles.v1.folder.zip",
        graph.lake.inbox / "crater-tiles.v2.folder.zip",
        {"train": 5, "valid": 6},
    )
    result = graph.run(["labelled_crops", "reflectance", "imputed_post_norm", "cls_evaluation", "seg_evaluation"])
    assert result.success
    assert metadata(result, "labelled_crops")["new"] == 4
    assert metadata(result, "reflectance")["computed in this run"] == 4
    rows = read_json(graph.lake.metrics("cls_evaluation").with_suffix(".json"))
    assert [row["n"] for row in rows] == [8, 12]
    assert len({row["label_version"] for row in rows}) == 2
    assert len({row["model_version"] for row in rows}) == 1
    assert rows[0]["change"] is None
    assert rows[1]["change"] == pytest.approx(rows[1]["balanced_accuracy"] - rows[0]["balanced_accuracy"])
    assert "other labels" in metadata(result, "cls_evaluation")["change since the previous row"]


@pytest.mark.parametrize("name", ["cls_model", "seg_model"])
def test_retraining_keeps_the_recipe_and_replaces_the_model_only_by_one_that_is_not_worse(
    graph: Graph, name: str
) -> None:
    before = current_model(graph.lake, name)
    with_seed = build_defs({**graph.defs.resources, "compute": ComputeResource(device="cpu", seed=11)})
    result = with_seed.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey(name)],
        instance=graph.instance,
        run_config={"ops": {name: {"config": {"retrain": True}}}},
    )
    said = metadata(result, name)
    version = said["version"]
    assert version != before.version
    assert read_json(graph.lake.model(name) / version / "config.json")["recipe"] == before.config["recipe"]
    assert said["trained in this run"] is True
    assert "neither was trained on" in said["compared with the model in use"]
    assert said["in use"] == ("replaces it" in said["compared with the model in use"])
    assert current_model(graph.lake, name).version == (version if said["in use"] else before.version)


def test_a_contradicting_setting_is_refused_and_named(graph: Graph) -> None:
    result = graph.run(["imputed_means"], {"ops": {"imputed_means": {"config": {"statistics": "v2"}}}})
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "'v2'" in failure.step_failure_data.error.message
    assert "'v1'" in failure.step_failure_data.error.message


def test_what_nobody_labelled_is_predicted(graph: Graph) -> None:
    result = graph.run(["cls_predictions", "seg_predictions"])
    assert result.success
    said = metadata(result, "seg_predictions")
    table = read_table(graph.lake.metrics("seg_predictions"), "seg_predictions")
    assert (said["crops"], said["predicted craters"]) == (metadata(result, "cls_predictions")["crops"], len(table))
    assert set(table["observation"]) <= {OBSERVATION}
    for what in ("outlines", "sizes"):
        assert "data:image/" in said[what]
        assert graph.lake.metrics("seg_predictions").with_name(f"seg_predictions_{what}.png").exists()


def test_weights_stay_those_that_were_chosen(graph: Graph) -> None:
    assert read_json(graph.lake.current_foundation)["variant"] == "narrow"
    assert graph.run(["prithvi_weights"]).success
    assert read_json(graph.lake.current_foundation)["variant"] == "narrow"


def test_a_variant_needs_its_source(graph: Graph) -> None:
    result = graph.run(["prithvi_weights"], {"ops": {"prithvi_weights": {"config": {"variant": "v1_100"}}}})
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "without a source" in failure.step_failure_data.error.message


def test_missing_inputs_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = Graph(Lake.at(tmp_path / "empty"), instance, "http://127.0.0.1:9").run(["cls_model"])
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    message = failure.step_failure_data.error.message
    assert "dagster asset materialize --select labelled_crops,reflectance,imputed_post_norm,prithvi_weights" in message
    assert "labels/labelled_crops.parquet" in message


def test_quick_recipes_are_configurations_of_their_assets() -> None:
    assert json.dumps(quick())  # plain values only
    assert set(quick()["ops"]) == {"cls_model", "seg_model"}


def test_a_classifier_begins_as_the_segmentation_model_in_use(graph: Graph) -> None:
    outlining = current_model(graph.lake, "seg_model")
    recipe = {
        "architecture": "seg_model", "image_size": 64, "normalize": outlining.config["recipe"]["normalize"], "steps": 2,
        "warmup_steps": 1, "batch_size": 2, "evaluate_every": 2,
    }  # fmt: skip
    config = {"ops": {"cls_model": {"config": recipe}}}
    result = graph.run(["cls_model"], config)
    assert result.success
    assert metadata(result, "cls_model")["initialised from"] == f"seg_model {outlining.version}"
    model = current_model(graph.lake, "cls_model")
    assert model.config["provenance"]["seg_model_version"] == outlining.version
    assert metadata(graph.run(["cls_model"], config), "cls_model")["trained in this run"] is False
    judged = metadata(graph.run(["cls_evaluation"]), "cls_evaluation")
    assert judged["model version"] == model.version
    sweep = {"variants": {"outlines": recipe}, "hold_back": 0.3}
    compared = metadata(
        graph.run(["cls_experiments"], {"ops": {"cls_experiments": {"config": sweep}}}), "cls_experiments"
    )
    (row,) = (
        read_table(graph.lake.metrics("cls_experiments"), "cls_experiments")
        .query("name == 'outlines'")
        .to_dict("records")
    )
    assert row["encoder"] == f"seg_model {outlining.version}"
    assert compared["new runs"] == 1
    (outlining.folder.parent / "current.json").unlink()
    failed = graph.run(["cls_model"], {"ops": {"cls_model": {"config": recipe | {"lr": 0.1}}}})
    assert "--select seg_model" in str(failed.failure_data_for_node("cls_model").user_failure_data.description)
