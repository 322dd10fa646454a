"""Weights: both published layouts, every key accounted for, nothing loaded that is not what it says."""

import dataclasses
import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mars_assets.checkpoints import read_checkpoint
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.lake import Lake
from mars_assets.prithvi.config import VARIANTS, PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import (
    Origin,
    export_encoder,
    fetch,
    install,
    install_as_before,
    load_encoder,
    load_encoder_state,
    load_mae,
    open_weights,
    save_weights,
)
from mars_assets.progress import Progress
from mars_assets.storage.files import read_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.storage.published import version_in_use
from mars_assets_tests.hub_server import Hub, serving

pytestmark = pytest.mark.slow

SMALL = PrithviConfig(
    "small", img_size=64, embed_dim=96, depth=3, num_heads=3,
    decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=4, layer_norm_eps=1e-5,
)  # fmt: skip
LAYOUTS = ["prefixed", "flat"]


@pytest.fixture
def state(shared: Path) -> dict[str, Tensor]:
    return read_checkpoint(shared / "parity" / "mae_prefixed_3frames.pt")


@pytest.fixture
def variant(monkeypatch: pytest.MonkeyPatch) -> str:
    """A variant small enough to write, published as the reference's file."""
    published = dataclasses.replace(VARIANTS["v1_100"], config=SMALL, sha256=())
    monkeypatch.setitem(VARIANTS, "small", published)
    return "small"


class TestReading:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_both_layouts_give_the_reference(self, shared: Path, layout: str) -> None:
        model, report = load_mae(SMALL, read_checkpoint(shared / "parity" / f"mae_{layout}_3frames.pt"))
        with np.load(shared / "parity" / "reference.npz") as arrays:
            x, noise, expected = (torch.from_numpy(arrays[name]) for name in ("input", "noise", "pred_tokens"))
        with torch.no_grad():
            torch.testing.assert_close(model(x, 0.5, noise).pred, expected, rtol=1e-4, atol=1e-4)
        assert report.layout == layout
        assert set(report.loaded) | set(report.recomputed) == set(model.state_dict())
        assert report.recomputed == ("encoder.pos_embed", "decoder.decoder_pos_embed")
        assert report.unused == report.missing == report.notes == ()
        assert not model.training

    @pytest.mark.parametrize("wrapper", ["model", "state_dict"])
    def test_wrapped(self, tmp_path: Path, state: dict[str, Tensor], wrapper: str) -> None:
        torch.save({wrapper: OrderedDict(state), "epoch": 3}, tmp_path / "x.pt")
        assert read_checkpoint(tmp_path / "x.pt").keys() == state.keys()

    def test_old_serialisation_and_safetensors(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        save_file(state, tmp_path / "new.safetensors")
        for name in ("old.pt", "new.safetensors"):
            read = read_checkpoint(tmp_path / name)
            assert all(torch.equal(read[key], state[key]) for key in state)

    def test_code_is_refused_and_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"weight": Evil()}, tmp_path / "zip.pt")
        (tmp_path / "plain.pt").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
        for name in ("zip.pt", "plain.pt"):
            with pytest.raises(MarsError, match="refused"):
                read_checkpoint(tmp_path / name)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
            (b"\n<html lang='en'>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a Git LFS pointer"),
            (b"Not Found", "not a checkpoint: it is neither a zip nor a pickle"),
        ],
    )
    def test_what_is_no_checkpoint_at_all(self, tmp_path: Path, content: bytes, what: str) -> None:
        for name in ("x.pt", "x.safetensors") if content != b"Not Found" else ("x.pt",):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DamagedFileError, match=f"{name} is {what}.*Download it again"):
                read_checkpoint(tmp_path / name)

    def test_damaged_files(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        torch.save(state, tmp_path / "x.pt")
        save_file(state, tmp_path / "x.safetensors")
        for name in ("x.pt", "x.safetensors"):
            whole = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(whole[: len(whole) // 2])
            with pytest.raises(MarsError, match=name):
                read_checkpoint(tmp_path / name)
        (tmp_path / "empty.pt").touch()
        with pytest.raises(DamagedFileError, match=r"empty\.pt"):
            read_checkpoint(tmp_path / "empty.pt")
        with pytest.raises(MarsError, match=r"checkpoint .* does not exist: correct its path"):
            read_checkpoint(tmp_path / "absent.pt")

    def test_a_program_is_no_checkpoint(self, tmp_path: Path) -> None:
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
        with pytest.raises(MarsError, match=r"a\.pt is TorchScript, a program: save the state dict"):
            read_checkpoint(tmp_path / "a.pt")

    def test_pickles_cut_anywhere(self, tmp_path: Path) -> None:
        """Within a number, torch raises another exception than at the end of one."""
        torch.save({"a": torch.zeros(2)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=False)
        whole = (tmp_path / "whole.pt").read_bytes()
        for length in range(1, len(whole) - 8):
            (tmp_path / "x.pt").write_bytes(whole[:length])
            with pytest.raises(MarsError, match=r"x\.pt"):
                read_checkpoint(tmp_path / "x.pt")

    def test_what_is_no_state_dict(self, tmp_path: Path) -> None:
        torch.save([1, 2], tmp_path / "list.pt")
        torch.save({"weight": torch.zeros(1), "lr": 0.1}, tmp_path / "mixed.pt")
        with pytest.raises(MarsError, match="list"):
            read_checkpoint(tmp_path / "list.pt")
        with pytest.raises(MarsError, match="lr"):
            read_checkpoint(tmp_path / "mixed.pt")


class TestStrictness:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_problem_is_listed(self, shared: Path, layout: str) -> None:
        state = read_checkpoint(shared / "parity" / f"mae_{layout}_3frames.pt")
        encoder, decoder = ("encoder.", "decoder.") if layout == "prefixed" else ("", "")
        state[f"{encoder}blocks.0.attn.qvk.weight"] = state.pop(f"{encoder}blocks.0.attn.qkv.weight")
        del state[f"{decoder}mask_token"]
        state[f"{encoder}norm.bias"] = torch.zeros(95)
        state[f"{encoder}patch_embed.proj.weight"] = state[f"{encoder}patch_embed.proj.weight"][:, :3]
        state[f"{encoder}norm.weight"] = torch.full((96,), float("nan"))
        state[f"{decoder}decoder_norm.bias"] = torch.zeros(64, dtype=torch.int64)
        with pytest.raises(MarsError) as error:
            load_mae(SMALL, state)
        message = str(error.value)
        for part in (
            "7 problems",
            "encoder.blocks.0.attn.qkv.weight is missing",
            "encoder.blocks.0.attn.qvk.weight is not a key",
            "decoder.mask_token is missing",
            "encoder.norm.bias has shape (95,), but the architecture needs (96,)",
            "encoder.patch_embed.proj.weight has shape (96, 3, 1, 16, 16)",
            "encoder.norm.weight has values that are not finite",
            "decoder.decoder_norm.bias is torch.int64",
        ):
            assert part in message, part

    @pytest.mark.parametrize("change", [{"depth": 4}, {"depth": 2}, {"embed_dim": 48}, {"patch_size": (1, 8, 8)}])
    def test_another_architecture_is_refused(self, state: dict[str, Tensor], change: dict) -> None:
        with pytest.raises(MarsError, match="problems"):
            load_mae(dataclasses.replace(SMALL, **change), state)

    def test_key_without_prefix_among_prefixed_is_unknown(self, state: dict[str, Tensor]) -> None:
        with pytest.raises(MarsError, match=r"head\.weight is not a key"):
            load_mae(SMALL, state | {"head.weight": torch.zeros(1)})

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_scales_of_tl_variants_are_reported_as_unused(self, shared: Path, layout: str) -> None:
        state = read_checkpoint(shared / "parity" / f"mae_{layout}_3frames.pt")
        scales = ["encoder.temporal_embed_enc.scale", "encoder.location_embed_enc.scale"]
        scales += ["decoder.temporal_embed_dec.scale", "decoder.location_embed_dec.scale"]
        given = scales if layout == "prefixed" else [key.split(".", 1)[1] for key in scales]
        _, report = load_mae(SMALL, state | {key: torch.ones(1) for key in given})
        assert set(report.unused) == set(scales)

    def test_positions_come_from_the_formula_and_a_difference_is_noted(self, state: dict[str, Tensor]) -> None:
        own = load_mae(SMALL, state)[0].encoder.pos_embed
        state["encoder.pos_embed"] = state["encoder.pos_embed"] + 0.5
        del state["decoder.decoder_pos_embed"]
        model, report = load_mae(SMALL, state)
        assert torch.equal(model.encoder.pos_embed, own)
        assert len(report.notes) == 1
        assert "encoder.pos_embed" in report.notes[0]
        assert "0.5" in report.notes[0]

    def test_half_precision_is_widened(self, state: dict[str, Tensor]) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            model, _ = load_mae(SMALL, {key: value.to(dtype) for key, value in state.items()})
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            expected = state["encoder.norm.weight"].to(dtype).float()
            assert torch.equal(model.encoder.norm.weight, expected)

    @pytest.mark.parametrize("name", [name for name, published in VARIANTS.items() if published.repository])
    def test_every_published_manifest_loads(self, shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        files = [f"prithvi_eo_{name}.json"] + ([f"prithvi_eo_{name}.flat.json"] if name == "v1_100" else [])
        monkeypatch.setattr(torch, "aminmax", lambda value: (torch.zeros(1), torch.zeros(1)))  # no values on meta
        for file in files:
            manifest = json.loads((shared / "parity" / "manifests" / file).read_text())
            state = {key: torch.empty(shape, device="meta") for key, shape in manifest.items()}
            tables = {key: torch.zeros(manifest[key]) for key in manifest if "pos_embed" in key}
            _, report = load_mae(VARIANTS[name].config, state | tables)
            assert len(report.loaded) + len(report.recomputed) + len(report.unused) == len(manifest)
            assert all(key.endswith(".scale") for key in report.unused)


class TestEncoderAlone:
    def test_decoder_is_reported_as_unused(self, state: dict[str, Tensor]) -> None:
        encoder, report = load_encoder_state(SMALL, state)
        x = torch.randn(1, 6, 64, 64)
        with torch.no_grad():
            assert torch.equal(encoder(x).tokens, load_mae(SMALL, state)[0].encoder(x).tokens)
        assert set(report.unused) == {key for key in state if key.startswith("decoder.")}
        assert set(report.loaded) | set(report.recomputed) == {key for key in state if key.startswith("encoder.")}

    def test_typo_in_the_encoder_is_still_an_error(self, state: dict[str, Tensor]) -> None:
        state["encoder.cls_tokn"] = state.pop("encoder.cls_token")
        with pytest.raises(MarsError, match=r"(?s)cls_token is missing.*cls_tokn is not a key"):
            load_encoder_state(SMALL, state)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_export_is_the_published_layout(self, tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
        encoder, _ = load_encoder_state(SMALL, state)
        with torch.no_grad():
            encoder.norm.weight += 1  # as if fine-tuned
        export_encoder(encoder, tmp_path / f"encoder{suffix}")
        written = read_checkpoint(tmp_path / f"encoder{suffix}")
        assert written.keys() == {key for key in state if key.startswith("encoder.")}
        again, _ = load_encoder_state(SMALL, written)
        assert torch.equal(again.norm.weight, encoder.norm.weight)
        with pytest.raises(MarsError, match=r"\.pt or \.safetensors"):
            export_encoder(encoder, tmp_path / "encoder.bin")


class TestWrappersOfModels:
    """What training tools add to keys and files."""

    PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "model._orig_mod.module.", "net.prithvi.")

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_a_prefix_of_all_keys_is_removed_and_noted(self, shared: Path, layout: str, prefix: str) -> None:
        state = read_checkpoint(shared / "parity" / f"mae_{layout}_3frames.pt")
        expected, plain = load_mae(SMALL, state)
        model, report = load_mae(SMALL, {prefix + key: value for key, value in state.items()})
        assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())
        assert (report.layout, report.loaded, plain.notes) == (layout, plain.loaded, ())
        assert all(name in " ".join(report.notes) for name in prefix.rstrip(".").split("."))
        encoder, _ = load_encoder_state(SMALL, {prefix + key: value for key, value in state.items()})
        assert torch.equal(encoder.cls_token, expected.encoder.cls_token)

    def test_a_compiled_part(self, state: dict[str, Tensor]) -> None:
        renamed = {key.replace("encoder.", "encoder._orig_mod."): value for key, value in state.items()}
        assert "_orig_mod." in load_mae(SMALL, renamed)[1].notes[0]

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize(
        ("prefix", "others"),
        [
            ("module.", ["n_averaged"]),
            ("model.", ["criterion.weight", "metric.cls_token", "n_averaged"]),
            ("backbone.", ["head.weight", "head.norm.weight"]),
            ("_orig_mod.module.", ["_orig_mod.n_averaged"]),
            ("ema.module.model.", ["ema.n_averaged", "ema.module.loss.weight"]),
        ],
    )
    def test_keys_of_a_wrapper_are_ignored_and_noted(
        self, shared: Path, layout: str, prefix: str, others: list[str]
    ) -> None:
        state = read_checkpoint(shared / "parity" / f"mae_{layout}_3frames.pt")
        expected, plain = load_mae(SMALL, state)
        wrapped = {prefix + key: value for key, value in state.items()} | {key: torch.ones(1) for key in others}
        for load, whole in ((load_mae, expected), (load_encoder_state, expected.encoder)):
            model, report = load(SMALL, wrapped)
            assert all(torch.equal(value, whole.state_dict()[key]) for key, value in model.state_dict().items())
            assert len(report.loaded) + len(report.recomputed) + len(report.unused) == len(wrapped)
            assert f"{len(others)} keys without this prefix were ignored" in report.notes[-1]
            assert all(name.replace("_orig_mod.", "") in report.notes[-1] for name in others)
        assert load_mae(SMALL, wrapped)[1].loaded == plain.loaded

    @pytest.mark.parametrize("second", ["model_ema.", "averaged.module.", ""])
    def test_a_file_with_two_models_is_refused(self, state: dict[str, Tensor], second: str) -> None:
        both = {prefix + key: value for prefix in ("model.", second) for key, value in state.items()}
        for load in (load_mae, load_encoder_state):
            with pytest.raises(MarsError, match=f"contains the model 2 times, under .*'{second}'.*: save only that"):
                load(SMALL, both)

    def test_a_prefix_of_an_incomplete_model_is_named_in_few_words(self, state: dict[str, Tensor]) -> None:
        mixed = {f"backbone.{key}": value for key, value in state.items()} | {"head.weight": torch.zeros(2)}
        del mixed["backbone.encoder.norm.weight"]
        with pytest.raises(MarsError, match=r"most begin with 'backbone' \(\d+\), 'head' \(1\)") as error:
            load_mae(SMALL, mixed)
        assert len(str(error.value)) < 1500
        assert "more are missing" in str(error.value)

    def test_keys_of_a_part_are_never_taken_for_the_whole(self, state: dict[str, Tensor]) -> None:
        """The head's keys are some of the encoder's in the other layout."""
        head = {f"head.{name}": torch.zeros(96) for name in ("norm.weight", "norm.bias", "cls_token")}
        _, report = load_mae(SMALL, {f"model.{key}": value for key, value in state.items()} | head)
        assert set(head) <= set(report.unused)

    def test_nothing_of_the_architecture(self) -> None:
        other = {f"layer{i}.conv.weight": torch.zeros(1) for i in range(300)}
        with pytest.raises(MarsError, match="and 296 more are unknown") as error:
            load_mae(SMALL, other)
        assert len(str(error.value)) < 1500

    @pytest.mark.parametrize("wrapper", ["model_state", "model_state_dict", "module", "net", "ema_weights"])
    def test_other_wrappers(self, tmp_path: Path, state: dict[str, Tensor], wrapper: str) -> None:
        optimizer = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}
        torch.save({wrapper: state, "optimizer": optimizer, "epoch": 3}, tmp_path / "x.pt")
        assert read_checkpoint(tmp_path / "x.pt").keys() == state.keys()
        torch.save({"checkpoint": {"state_dict": state}, "epoch": 3}, tmp_path / "y.pt")
        assert read_checkpoint(tmp_path / "y.pt").keys() == state.keys()

    def test_several_states_and_none(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        torch.save({"student": state, "teacher": state}, tmp_path / "two.pt")
        with pytest.raises(MarsError, match="several states, student, teacher"):
            read_checkpoint(tmp_path / "two.pt")
        torch.save({f"setting{i}": 0.5 for i in range(500)}, tmp_path / "none.pt")
        with pytest.raises(MarsError, match="setting3 and 496 more are no tensors: save only"):
            read_checkpoint(tmp_path / "none.pt")
        torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pt")
        with pytest.raises(MarsError, match="not a plain state dict"):
            read_checkpoint(tmp_path / "numbers.pt")

    def test_content_decides_and_not_the_suffix(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        save_file(state, tmp_path / "tensors.pt")
        torch.save(state, tmp_path / "zip.safetensors")
        torch.save(state, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
        torch.save(state, tmp_path / "no_suffix")
        for path in tmp_path.iterdir():
            read = read_checkpoint(path)
            assert all(torch.equal(read[key], state[key]) for key in state), path

    def test_code_under_another_name_is_refused_and_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"weight": Evil()}, tmp_path / "x.safetensors")
        with pytest.raises(MarsError, match="could run code"):
            read_checkpoint(tmp_path / "x.safetensors")
        assert not (tmp_path / "ran").exists()

    def test_installed_with_a_note_from_the_home_folder(
        self, lake: Lake, variant: str, tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        torch.save({"model_state": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "x.pt")
        said: list[str] = []
        folder = install(lake, Origin(variant, "file", Path("~/x.pt")), Progress(said.append))
        assert any("'module.' was removed" in line for line in said)
        assert "'module.' was removed" in read_json(folder / "load_report.json")["notes"][0]
        with pytest.raises(MarsError, match=r"~nobody_at_all/x\.pt"):
            install(lake, Origin(variant, "file", Path("~nobody_at_all/x.pt")))


class TestInstalling:
    def test_a_changed_configuration_is_named(self, lake: Lake) -> None:
        folder = install(lake, Origin("sample", "sample"))
        config = folder / "config.json"
        config.write_text(config.read_text().replace("embed_dim", "embed_width"))
        with pytest.raises(MarsError, match=rf"{config}: unknown fields .*embed_width.*\. Restore the file"):
            open_weights(folder)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_from_a_file(self, shared: Path, lake: Lake, variant: str, layout: str) -> None:
        source = shared / "parity" / f"mae_{layout}_3frames.pt"
        folder = install(lake, Origin(variant, "file", path=source))
        assert folder == version_in_use(lake.foundation(variant))
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "load_report.json",
            "model.safetensors",
        ]
        report = read_json(folder / "load_report.json")
        assert report["sha256"] == sha256_file(source)
        assert report["layout"] == layout
        assert report["file"] == source.name
        assert report["parameters"] == sum(p.numel() for p in PrithviMAE(SMALL).parameters())
        opened = open_weights(folder)
        assert (opened.config, opened.sha256) == (SMALL, sha256_file(source))
        expected = load_mae(SMALL, read_checkpoint(source))[0].state_dict()
        for model in (opened.load(), open_weights(lake.foundation(variant)).load()):
            assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        encoder = load_encoder(folder).state_dict()
        assert all(torch.equal(value, expected[f"encoder.{key}"]) for key, value in encoder.items())

    def test_nothing_is_done_twice(self, shared: Path, lake: Lake, variant: str, tmp_path: Path) -> None:
        source = tmp_path / "weights.pt"
        source.write_bytes((shared / "parity" / "mae_flat_3frames.pt").read_bytes())
        lines: list[str] = []
        folder = install(lake, Origin(variant, "file", path=source))
        inode = (folder / "model.safetensors").stat().st_ino
        install(lake, Origin(variant, "file", path=source), Progress(lines.append))
        assert (folder / "model.safetensors").stat().st_ino == inode
        assert "already" in lines[-1]
        source.write_bytes((shared / "parity" / "mae_prefixed_3frames.pt").read_bytes())
        opened, before = open_weights(lake.foundation(variant)), sha256_of((folder / "model.safetensors").read_bytes())
        newer = install(lake, Origin(variant, "file", path=source))
        assert newer != folder
        assert open_weights(lake.foundation(variant)).sha256 == sha256_file(source) != opened.sha256
        assert sha256_file(folder / "model.safetensors") == before, "what reads it goes on reading it"
        assert opened.load().config == SMALL

    def test_a_refused_file_leaves_the_last_good_one(
        self, shared: Path, lake: Lake, variant: str, tmp_path: Path
    ) -> None:
        folder = install(lake, Origin(variant, "file", path=shared / "parity" / "mae_flat_3frames.pt")).parent
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        state = read_checkpoint(shared / "parity" / "mae_flat_3frames.pt")
        del state["cls_token"]
        torch.save(state, tmp_path / "bad.pt")
        with pytest.raises(MarsError, match=r"encoder\.cls_token is missing"):
            install(lake, Origin(variant, "file", path=tmp_path / "bad.pt"))
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    def test_a_folder_that_an_earlier_version_wrote(self, shared: Path, lake: Lake, variant: str) -> None:
        source, folder = shared / "parity" / "mae_flat_3frames.pt", lake.foundation(variant)
        report = {"source": "file", "file": source.name, "sha256": sha256_file(source)}
        save_weights(folder, load_mae(SMALL, read_checkpoint(source))[0], report)
        assert install(lake, Origin(variant, "file", path=source)) == install_as_before(lake, variant) == folder
        opened = open_weights(folder)
        newer = install(lake, Origin(variant, "file", path=shared / "parity" / "mae_prefixed_3frames.pt"))
        assert newer.parent == folder
        assert open_weights(folder).sha256 != opened.sha256 == sha256_file(source)

    def test_folder_of_weights_as_a_file(self, lake: Lake, tmp_path: Path, variant: str) -> None:
        torch.manual_seed(0)
        config = dataclasses.replace(SMALL, layer_norm_eps=3e-6)
        mae = PrithviMAE(config).eval()
        save_weights(tmp_path / "mine", mae, {"note": "begun here"})
        assert open_weights(tmp_path / "mine").sha256 == sha256_file(tmp_path / "mine" / "model.safetensors")
        folder = install(lake, Origin(variant, "file", path=tmp_path / "mine"))
        assert fetch(Origin(variant, "file", path=lake.foundation(variant))).path == folder / "model.safetensors"
        model = open_weights(folder).load()
        assert model.config == config
        assert all(torch.equal(value, mae.state_dict()[key]) for key, value in model.state_dict().items())
        with pytest.raises(MarsError, match="'small', not 'v1_100'"):
            fetch(Origin("v1_100", "file", tmp_path / "mine"))

    def test_sample(self, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mars_assets.prithvi.weights.SAMPLE", tmp_path / "sample")
        with pytest.raises(MarsError, match="are missing"):
            install(lake, Origin("sample", "sample"))
        config = dataclasses.replace(VARIANTS["sample"].config, depth=1, decoder_depth=1)
        save_weights(tmp_path / "sample", PrithviMAE(config), {})
        folder = install(lake, Origin("sample", "sample"))
        assert open_weights(folder).config == config
        (folder / "model.safetensors").unlink()
        assert open_weights(install_as_before(lake, "sample")).config == config

    def test_what_came_from_a_file_stays_without_it(
        self, shared: Path, lake: Lake, variant: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "mae.pt"
        file.write_bytes((shared / "parity" / "mae_flat_3frames.pt").read_bytes())
        folder = install(lake, Origin(variant, "file", path=file))
        file.unlink()
        assert install_as_before(lake, variant) == folder
        (folder / "model.safetensors").unlink()
        with pytest.raises(MarsError, match="are incomplete"):
            install_as_before(lake, variant)

    @pytest.mark.parametrize(
        ("variant", "source", "path", "message"),
        [
            ("v3", "sample", None, "v1_100, v2_300"),
            ("v1_100", "web", None, "huggingface, file, sample"),
            ("v1_100", "file", None, "needs a path"),
            ("v1_100", "huggingface", Path("x"), "take none"),
            ("v1_100", "sample", None, "is not available from"),
            ("sample", "huggingface", None, "is not available from"),
            ("v1_100", "file", Path("absent.pt"), "absent.pt"),
        ],
    )
    def test_contradicting_settings(
        self, lake: Lake, variant: str, source: str, path: Path | None, message: str
    ) -> None:
        with pytest.raises(MarsError, match=message):
            install(lake, Origin(variant, source, path=path))  # type: ignore[arg-type]

    def test_opening_what_is_not_there(self, lake: Lake, tmp_path: Path) -> None:
        with pytest.raises(MissingInputError, match="--select prithvi_weights"):
            open_weights(lake.foundation("v1_100"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: Path) -> Iterator[type[Hub]]:
    with serving(shared / "parity" / "mae_flat_3frames.pt", tmp_path / "hub", monkeypatch):
        yield Hub


class TestHuggingFace:
    def test_download_install_and_skip(
        self, hub: type[Hub], shared: Path, lake: Lake, variant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sha256 = sha256_file(shared / "parity" / "mae_flat_3frames.pt")
        monkeypatch.setitem(VARIANTS, variant, dataclasses.replace(VARIANTS[variant], sha256=(sha256,)))
        folder = install(lake, Origin(variant, "huggingface", revision="b" * 40))
        report = read_json(folder / "load_report.json")
        assert (report["sha256"], report["revision"], report["layout"]) == (sha256, "b" * 40, "flat")
        assert report["commit"] == Hub.commit
        assert set(hub.authorisation) == {None}
        requests = len(hub.authorisation)
        install(lake, Origin(variant, "huggingface"))
        assert len(hub.authorisation) == requests

    def test_what_was_fetched_once_stays_pinned_to_its_commit(self, hub: type[Hub], lake: Lake, variant: str) -> None:
        folder = install(lake, Origin(variant, "huggingface"))
        assert read_json(folder / "load_report.json")["commit"] == Hub.commit
        requests = len(hub.authorisation)
        install(lake, Origin(variant, "huggingface"))
        install(lake, Origin(variant, "huggingface", revision=Hub.commit))
        assert install_as_before(lake, variant) == folder
        assert len(hub.authorisation) == requests
        install(lake, Origin(variant, "huggingface", revision="main"))
        assert len(hub.authorisation) > requests

    def test_a_broken_download_is_resumed(self, hub: type[Hub], variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "break_after", 1_000_000)
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
        hub.starts.clear()
        assert fetch(Origin(variant, "huggingface")).path.read_bytes() == hub.content
        assert hub.starts == [0, 1_000_000]

    def test_token_comes_from_the_environment(
        self, hub: type[Hub], variant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_abc")
        fetch(Origin(variant, "huggingface"))
        assert "Bearer hf_abc" in hub.authorisation

    def test_other_content_than_was_published(
        self, hub: type[Hub], lake: Lake, variant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(VARIANTS, variant, dataclasses.replace(VARIANTS[variant], sha256=("0" * 64,)))
        with pytest.raises(DamagedFileError, match=sha256_of(hub.content)):
            install(lake, Origin(variant, "huggingface"))
        assert not lake.foundation(variant).exists()

    def test_revision_that_is_not_there(self, hub: type[Hub], variant: str) -> None:
        hub.status = 404
        with pytest.raises(MarsError, match=r"at revision nope does not exist"):
            fetch(Origin(variant, "huggingface", revision="nope"))

    def test_offline(self, hub: type[Hub], variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(MarsError, match=r"Prithvi_EO_V1_100M\.pt.*cannot be reached.*source 'file'"):
            fetch(Origin(variant, "huggingface"))


def sha256_of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
