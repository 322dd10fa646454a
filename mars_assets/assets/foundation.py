"""Assets of group foundation: weights, published and adapted to Mars."""

from pathlib import Path
from typing import Literal

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.imagery import crops
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import mendable, picture, progress_of, table, where
from mars_assets.assets.run_config import AS_BEFORE, recipe_from
from mars_assets.code_versions import PRETRAINING, WEIGHTS
from mars_assets.encoders.registry import ENCODERS
from mars_assets.encoders.weights import install_encoder, is_installed
from mars_assets.errors import MarsError
from mars_assets.lake import CONFIG, HISTORY, LOAD_REPORT, MARS_WEIGHTS, Lake
from mars_assets.models.versions import current_weights, make_current, set_current_weights, weights_in_use
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.prithvi.weights import Origin, install, install_as_before, open_weights
from mars_assets.progress import Progress
from mars_assets.provenance import software
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.storage.files import read_json, read_table, user_path
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import version_in_use
from mars_assets.training.run_folder import TrainingJob

GROUP = "foundation"


class PrithviWeightsConfig(dg.Config):
    """Choice of the weights and their source."""

    source: Literal["as_before", "sample", "huggingface", "file"] = Field(
        AS_BEFORE,
        description="sample: the tiny encoder in this package, pretrained on synthetic terrain. huggingface: the "
        "published weights. file: a checkpoint on this machine. as_before: the weights in use, or the sample if there "
        "are none.",
    )
    variant: str = Field(
        "",
        description="v1_100, v2_300, v2_300_tl, v2_600, v2_600_tl, v2_100_tl or v2_tiny_tl, for sources that have "
        "several.",
    )
    path: str = Field("", description="The checkpoint, if source is file.")
    revision: str = Field(
        "",
        description="Commit of the Hugging Face repository. Empty: the commit downloaded before, or else the head of "
        "the main branch, which is then pinned.",
    )


@dg.asset(group_name=GROUP, kinds={"pytorch", "huggingface"}, code_version=WEIGHTS)
def prithvi_weights(
    context: dg.AssetExecutionContext, config: PrithviWeightsConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """Prithvi's weights, verified, with their architecture, bands and statistics.

    Every tensor in the checkpoint is accounted for: loaded, recomputed or listed as unused. Missing or unknown tensors
    and wrong shapes raise an error that lists all of them. Only tensors are unpickled.
    """
    with mendable():
        here = lake.open()
        folder = _installed(here, config, progress_of(context))
        weights = open_weights(folder)
        report = read_json(folder / LOAD_REPORT)
        set_current_weights(here, folder, weights.sha256)
    architecture = weights.config
    rows = pd.DataFrame(
        {"band": architecture.bands, "mean": architecture.statistics.means, "std": architecture.statistics.stds}
    )
    return dg.MaterializeResult(
        metadata={
            "variant": architecture.variant,
            "sha256": weights.sha256,
            "parameters": report["parameters"],
            "encoder": f"{architecture.embed_dim} wide, {architecture.depth} deep, {architecture.num_heads} heads, "
            f"patch {architecture.patch_size}",
            "bands and statistics": table(rows),
            "load report": dg.MetadataValue.json(report),
            "folder": where(folder),
        },
        data_version=dg.DataVersion(weights.sha256[:16]),
    )


def _installed(lake: Lake, config: PrithviWeightsConfig, progress: Progress) -> Path:
    """Install the configured weights and return their folder."""
    if config.source != AS_BEFORE:
        variant = config.variant or ("sample" if config.source == "sample" else "")
        path = user_path(config.path) if config.path else None
        return install(lake, Origin(variant, config.source, path, config.revision or None), progress)
    if config.variant or config.path or config.revision:
        raise MarsError(
            "prithvi_weights: variant, path and revision have no effect without a source: set it to huggingface, file "
            "or sample"
        )
    in_use = weights_in_use(lake)
    return install_as_before(lake, in_use, progress) if in_use else install(lake, Origin("sample", "sample"), progress)


class EncoderWeightsConfig(dg.Config):
    """Choice of further encoders."""

    encoders: list[str] = Field(
        default=[],
        description="Names of the encoders to install, such as [galileo_nano]: `mars-assets encoders` lists all. Those "
        "that are installed stay.",
    )
    path: str = Field(
        "", description="A local copy of the published file, for one encoder. Empty: Hugging Face's hub, or its cache."
    )


@dg.asset(group_name=GROUP, kinds={"pytorch", "huggingface"}, code_version=WEIGHTS)
def encoder_weights(
    context: dg.AssetExecutionContext, config: EncoderWeightsConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """Published weights of further encoders, verified.

    Recipes name them by `encoder`: Prithvi's variants beside the one in use, and encoders of other families, such as
    Galileo. `cls_model`, `seg_model` and their sweeps start from any of them, from its shuffled weights, or from random
    ones of its architecture. Every tensor of a file is accounted for, as for `prithvi_weights`.
    """
    with mendable():
        here, progress = lake.open(), progress_of(context)
        if config.path and len(config.encoders) != 1:
            raise MarsError("encoder_weights: path is the file of one encoder: name it under encoders")
        for name in config.encoders:
            install_encoder(here, name, user_path(config.path) if config.path else None, progress)
        reports = {
            name: read_json(version_in_use(here.foundation(name)) / LOAD_REPORT)
            for name in ENCODERS
            if is_installed(here, name)
        }
    columns = ["encoder", "parameters", "trained on", "licence", "publication", "sha256"]
    rows = pd.DataFrame(
        [
            (name, report["parameters"], about.trained_on, about.licence, about.publication, report["sha256"])
            for name, report in reports.items()
            for about in [ENCODERS[name]]
        ],
        columns=columns,
    )
    return dg.MaterializeResult(
        metadata={"dagster/row_count": len(rows), "encoders": table(rows)},
        data_version=dg.DataVersion(fingerprint(rows[["encoder", "sha256"]].to_numpy().tolist())[:16]),
    )


class MarsWeightsConfig(dg.Config, PretrainRecipe):
    """Settings for continued masked pretraining."""

    images: str = Field("", description="Folder or zip of unlabelled images, in addition to the lake's crops.")


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "lightning"},
    code_version=PRETRAINING,
    deps=[crops, labelled_crops, prithvi_weights],
    pool=GPU_POOL,
)
def mars_weights(
    context: dg.AssetExecutionContext, config: MarsWeightsConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Prithvi's weights after further masked pretraining on images of Mars.

    Uses the lake's selected crops and the configured further images, except those of observations that the current
    labels have in valid or test. If later labels put an observation there that was used, models initialised from these
    weights are not evaluated on it. `cls_model` and `seg_model` start from these weights with `encoder: mars_weights`,
    for comparison with `prithvi_weights` and with random weights. A killed run continues with the same loss curve. Each
    version's `weights/` has the published layout.
    """
    from mars_assets.pretraining.data import unlabelled_images
    from mars_assets.pretraining.figures import curve_figure, reconstructions_figure
    from mars_assets.pretraining.train import pretrain

    progress = progress_of(context)
    with mendable():
        here, recipe, chosen = lake.open(), recipe_from(config, PretrainRecipe), compute.choose()
        weights, sha256, variant = current_weights(here)
        images = unlabelled_images(here, user_path(config.images) if config.images else None, progress)
        version = fingerprint(recipe.identity(), images.sha, sha256, chosen.seed)[:12]
        folder = here.version("mars_weights", version)
        found = (folder / CONFIG).exists()
        progress.say(f"version {version} exists" if found else f"pretraining version {version}")
        folder.mkdir(parents=True, exist_ok=True)
        provenance = {"weights": variant, "weights_sha256": sha256, "software": software()}
        report = pretrain(TrainingJob(recipe, images, weights, folder, chosen, provenance, progress))
        make_current(here, "mars_weights", version, report["last"])
        history = read_table(folder / HISTORY, "mars_weights")
        pictures = reconstructions_figure(images, {"before": weights, "after": folder / MARS_WEIGHTS}, recipe, chosen)
    first, last = report["first"], report["last"]
    counts = {
        "training": report["n_train"],
        "validation": report["n_valid"],
        "left out": report["left_out"],
        "from unknown observations": images.unknown,
    }
    broken = pd.DataFrame(images.broken.items(), columns=["image", "problem"])
    return dg.MaterializeResult(
        metadata={
            "version": version,
            "trained in this run": not found,
            "loss": picture(curve_figure(history), "loss by training step"),
            "reconstructions": picture(pictures, "validation images, before and after"),
            "validation loss": float(last["valid_loss"]),
            "validation loss before": float(first["valid_loss"]),
            "images": table(pd.DataFrame([counts])),
            **({"unusable images": table(broken)} if images.broken else {}),
            "recipe": dg.MetadataValue.json(recipe.model_dump()),
            "initialised from": "random weights" if recipe.from_random else variant,
            "device": str(chosen),
            "sha256": open_weights(folder / MARS_WEIGHTS).sha256,
            "folder": where(folder),
        },
        data_version=dg.DataVersion(version),
    )
