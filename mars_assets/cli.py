"""The command ``mars-assets``: new lakes, and finished models outside Dagster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from mars_assets.classification.predict_folder import predict_pictures, scale_note
from mars_assets.errors import MarsError
from mars_assets.images import pictures_below
from mars_assets.instance import SETTINGS_FILE, instance_home, write_instance_settings
from mars_assets.lake import DEFAULT_LAKE, MARS_WEIGHTS, Lake
from mars_assets.models.versions import ModelVersion, current_model, current_weights
from mars_assets.prithvi.weights import export_encoder, load_encoder
from mars_assets.progress import Progress
from mars_assets.segmentation.predict_folder import outline_pictures
from mars_assets.segmentation.task import smallest_evaluated
from mars_assets.storage.files import explained_errors, user_path, write_csv, write_json, write_table
from mars_assets.tasks import TASKS
from mars_assets.training.compute import Compute, DeviceChoice, PrecisionChoice, choose_compute

ENCODERS = (*(task.model for task in TASKS), "mars_weights", "prithvi_weights")


def _init(lake: Lake, options: argparse.Namespace) -> None:
    """Create the lake's inbox and the settings of its Dagster instance."""
    home = instance_home()
    written = write_instance_settings(home)
    with explained_errors(lake.inbox):
        lake.inbox.mkdir(parents=True, exist_ok=True)
    print(f"{lake.inbox}: the folder for label exports")
    print(f"{home / SETTINGS_FILE}: Dagster's settings" + ("" if written else ", which existed"))


def _export(lake: Lake, options: argparse.Namespace) -> None:
    """Export the encoder of a model in use to TerraTorch and other tools.

    ``TARGET.json`` describes it: ``prithvi`` (architecture, bands, statistics) and ``input`` (normalisation of the
    input).
    """
    from mars_assets.training.augmentation import FLAT

    name, target = options.model, options.target
    normalized = "by band: (x - mean) / std of the statistics"
    if task := next((task for task in TASKS if task.model == name), None):
        model = current_model(lake, name)
        encoder = task.encoder(model)
        if model.config["recipe"].get("normalize") == "image":
            normalized += f"; then (x - mean) / (std + {FLAT}) of the image's own values in each band"
    elif name == "mars_weights":
        encoder = load_encoder(current_model(lake, name).folder / MARS_WEIGHTS)
    else:
        encoder = load_encoder(current_weights(lake).folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    export_encoder(encoder, target)
    about = target.with_name(target.name + ".json")
    write_json(about, {"prithvi": encoder.config.to_dict(), "input": normalized})
    print(f"{target}: the encoder of {name}, in the published layout")
    print(f"{about}: its architecture, bands and normalisation")


def _predict(lake: Lake, options: argparse.Namespace) -> None:
    model, compute, progress = _started(lake, "cls_model", options)
    table = predict_pictures(model.folder, options.folder, compute, progress)
    about = {"model_version": model.version, "recipe": model.config["recipe"]}
    note = scale_note(model.folder, pictures_below(options.folder))
    write_table(options.out, table, about | ({"scale": note} if note else {}))
    print(f"{options.out}: {len(table)} images by cls_model {model.version}, the least certain first")
    print(f"{(table['probability'] >= 0.5).sum()} of them are predicted to contain a crater")
    if unread := (table["problem"] != "").sum():
        print(f"{unread} could not be read: see the column 'problem'")


def _outline(lake: Lake, options: argparse.Namespace) -> None:
    model, compute, progress = _started(lake, "seg_model", options)
    smallest = smallest_evaluated(lake, model) if options.smallest is None else options.smallest
    with TemporaryDirectory() as temporary:
        masks = options.masks or Path(temporary)
        table, problems = outline_pictures(model, options.folder, masks, compute, progress)
    table = table[table["diameter_px"] >= smallest]
    if options.out.suffix == ".parquet":
        write_table(options.out, table, {"model_version": model.version, "recipe": model.config["recipe"]})
    else:
        write_csv(options.out, table)
    print(f"{options.out}: {len(table)} craters in {table['image'].nunique()} images by seg_model {model.version}")
    if smallest:
        print(f"craters narrower than {smallest:.1f} pixels are left out (--smallest)")
    elif options.smallest is None:
        print("the model was not evaluated, so craters of every size are listed: materialize 'seg_evaluation'")
    for name, problem in problems.items():
        print(f"{name} was skipped: {problem}")


def _started(lake: Lake, name: str, options: argparse.Namespace) -> tuple[ModelVersion, Compute, Progress]:
    if options.out.is_dir():
        raise MarsError(f"{options.out} is a folder: name a file for the table")
    progress = Progress(lambda line: print(line, file=sys.stderr))
    return current_model(lake, name), choose_compute(options.device, options.precision), progress


def _computing(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=user_path, help="folder of images, grey or RGB")
    command.add_argument("--device", choices=get_args(DeviceChoice), default="auto", help="device (%(default)s)")
    command.add_argument(
        "--precision", choices=get_args(PrecisionChoice), default="auto", help="numerical precision (%(default)s)"
    )


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(prog="mars-assets", description=__doc__)
    parser.add_argument(
        "--lake",
        default=os.environ.get("MARS_LAKE") or DEFAULT_LAKE,
        help="folder of the lake; by default the variable MARS_LAKE or data_lake",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init = commands.add_parser(
        "init",
        help="create a lake and its Dagster instance",
        description="Create the lake's inbox, and write Dagster's settings into the folder that the variable "
        "DAGSTER_HOME names. Settings that exist there are never replaced.",
    )
    init.set_defaults(run=_init)
    export = commands.add_parser(
        "export",
        help="write an encoder in Prithvi's published layout",
        description="Write the encoder of the model in use as a state dict in Prithvi's published layout, which "
        "TerraTorch accepts as ckpt_path.",
    )
    export.add_argument("model", choices=ENCODERS, help="model whose encoder to export")
    export.add_argument("target", type=user_path, help="file to write, .pt or .safetensors")
    export.set_defaults(run=_export)
    predict = commands.add_parser(
        "predict",
        help="predict the probability of a crater for each image in a folder",
        description="Write a Parquet table of the current cls_model's probabilities for all JPEG and PNG images below "
        "a folder: image, probability, uncertainty (entropy in bits), problem.",
    )
    predict.add_argument(
        "--out", type=user_path, default=Path("predictions.parquet"), help="table to write (%(default)s)"
    )
    _computing(predict)
    predict.set_defaults(run=_predict)
    outline = commands.add_parser(
        "outline",
        help="list the craters in a folder of images",
        description="Write a table of the craters that the current seg_model finds in all JPEG and PNG images below a "
        "folder: centre and diameter in pixels, mean probability, and whether the border cuts the crater.",
    )
    outline.add_argument(
        "--out", type=user_path, default=Path("craters.csv"), help="table, .csv or .parquet (%(default)s)"
    )
    outline.add_argument(
        "--masks", type=user_path, help="folder for the predicted masks: 8-bit PNG, crater from 128 up"
    )
    outline.add_argument(
        "--smallest",
        type=float,
        metavar="PIXELS",
        help="smallest diameter to list; by default that of the smallest crater in the model's evaluation",
    )
    _computing(outline)
    outline.set_defaults(run=_outline)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, or 1 after an error that the user can correct.
    """
    try:
        options = parser().parse_args(arguments)
        options.run(Lake.at(options.lake), options)
    except MarsError as error:
        print(f"mars-assets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
