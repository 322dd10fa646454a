"""The command ``mars-assets``: what is done with finished models outside of Dagster."""

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
from mars_assets.lake import DEFAULT_LAKE, MARS_WEIGHTS, Lake
from mars_assets.models.versions import current_model, current_weights
from mars_assets.prithvi.weights import export_encoder, load_encoder
from mars_assets.progress import Progress
from mars_assets.segmentation.predict_folder import outline_pictures
from mars_assets.segmentation.task import smallest_evaluated
from mars_assets.storage.files import write_csv, write_json, write_table
from mars_assets.tasks import TASKS
from mars_assets.training.compute import DeviceChoice, PrecisionChoice, choose_compute

ENCODERS = (*(task.model for task in TASKS), "mars_weights", "prithvi_weights")


def export_encoder_of(lake: Lake, name: str, target: Path) -> Path:
    """Write the encoder of the model in use, for TerraTorch and other tools.

    ``TARGET.json`` gets what belongs to it.

    Args:
        lake: where the models are.
        name: one of ``ENCODERS``.
        target: a ``.pt`` or ``.safetensors`` file, see :func:`mars_assets.prithvi.weights.export_encoder`.

    Returns:
        The JSON file: ``prithvi`` (architecture, bands, statistics) and ``input`` (how the input is normalised).

    Raises:
        MissingInputError: there is no such model yet.
        DamagedFileError: its files cannot be read.
        MarsError: another suffix, or the model has no encoder of Prithvi's.
    """
    from mars_assets.training.augmentation import FLAT

    own = False
    if task := next((task for task in TASKS if task.model == name), None):
        model = current_model(lake, name)
        encoder = task.encoder(model)
        own = model.config["recipe"].get("normalize") == "image"
    elif name == "mars_weights":
        encoder = load_encoder(current_model(lake, name).folder / MARS_WEIGHTS)
    else:
        encoder = load_encoder(current_weights(lake).folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    export_encoder(encoder, target)
    about = target.with_name(target.name + ".json")
    normalized = "by band: (x - mean) / std of the statistics"
    if own:
        normalized += f"; then (x - mean) / (std + {FLAT}) of the image's own values in each band"
    write_json(about, {"prithvi": encoder.config.to_dict(), "input": normalized})
    return about


def _export(lake: Lake, options: argparse.Namespace) -> None:
    about = export_encoder_of(lake, options.model, options.target)
    print(f"{options.target}: the encoder of {options.model}, in the published layout")
    print(f"{about}: its architecture, its bands, and what to normalise them with")


def _predict(lake: Lake, options: argparse.Namespace) -> None:

    if options.out.is_dir():
        raise MarsError(f"{options.out} is a folder: name a file for the table")
    model = current_model(lake, "cls_model")
    compute = choose_compute(options.device, options.precision)
    progress = Progress(lambda line: print(line, file=sys.stderr))
    table = predict_pictures(model.folder, options.folder, compute, progress)
    about = {"model_version": model.version, "recipe": model.config["recipe"]}
    note = scale_note(model.folder, pictures_below(options.folder))
    write_table(options.out, table, about | ({"scale": note} if note else {}))
    print(f"{options.out}: {len(table)} images by cls_model {model.version}, the least certain first")
    print(f"{(table['probability'] >= 0.5).sum()} of them are said to have a crater")
    if unread := (table["problem"] != "").sum():
        print(f"{unread} could not be read: the column 'problem' says why")


def _outline(lake: Lake, options: argparse.Namespace) -> None:

    if options.out.is_dir():
        raise MarsError(f"{options.out} is a folder: name a file for the table")
    model = current_model(lake, "seg_model")
    smallest = smallest_evaluated(lake, model) if options.smallest is None else options.smallest
    compute = choose_compute(options.device, options.precision)
    progress = Progress(lambda line: print(line, file=sys.stderr))
    with TemporaryDirectory() as temporary:
        masks = options.masks or Path(temporary)
        table, problems = outline_pictures(
            model, options.folder, masks, compute, smallest_px=smallest, progress=progress
        )
    if options.out.suffix == ".parquet":
        write_table(options.out, table, {"model_version": model.version, "recipe": model.config["recipe"]})
    else:
        write_csv(options.out, table)
    print(f"{options.out}: {len(table)} craters in {table['image'].nunique()} images by seg_model {model.version}")
    if smallest:
        print(f"craters narrower than {smallest:.1f} pixels are left out (--smallest)")
    elif options.smallest is None:
        print("the model was not evaluated, so craters of every size are listed: make 'seg_evaluation'")
    for name, problem in problems.items():
        print(f"{name} is left out: {problem}")


def _computing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=get_args(DeviceChoice), default="auto", help="where to compute (%(default)s)"
    )
    command.add_argument(
        "--precision", choices=get_args(PrecisionChoice), default="auto", help="in which to compute (%(default)s)"
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="mars-assets", description=__doc__)
    parser.add_argument(
        "--lake",
        type=Path,
        default=Path(os.environ.get("MARS_LAKE") or DEFAULT_LAKE),
        help="the lake's folder; by default the variable MARS_LAKE, or else data_lake",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = commands.add_parser(
        "export",
        help="write an encoder in Prithvi's published layout",
        description="Writes the encoder of the model in use as a state dict in Prithvi's published layout, which "
        "TerraTorch takes as ckpt_path.",
    )
    export.add_argument("model", choices=ENCODERS, help="whose encoder")
    export.add_argument("target", type=Path, help="file to write, .pt or .safetensors")
    export.set_defaults(run=_export)
    predict = commands.add_parser(
        "predict",
        help="probabilities of a crater for a folder of images",
        description="Writes a Parquet table of the current cls_model's probabilities for all JPEG and PNG images below "
        "a folder: image, probability, uncertainty (entropy in bits), problem.",
    )
    predict.add_argument("folder", type=Path, help="of images, grey or RGB")
    predict.add_argument("--out", type=Path, default=Path("predictions.parquet"), help="table to write (%(default)s)")
    _computing(predict)
    predict.set_defaults(run=_predict)
    outline = commands.add_parser(
        "outline",
        help="the craters in a folder of images",
        description="Writes the craters that the current seg_model sees in all JPEG and PNG images below a folder: "
        "centre and diameter in pixels, mean probability, and whether the border cuts it.",
    )
    outline.add_argument("folder", type=Path, help="of images, grey or RGB")
    outline.add_argument("--out", type=Path, default=Path("craters.csv"), help="table, .csv or .parquet (%(default)s)")
    outline.add_argument("--masks", type=Path, help="folder to keep the predicted masks in: 8-bit PNG, crater from 128")
    outline.add_argument(
        "--smallest",
        type=float,
        metavar="PIXELS",
        help="least diameter; by default that of the smallest crater that the model was judged on",
    )
    _computing(outline)
    outline.set_defaults(run=_outline)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0, or 1 after an error that the user can mend."""
    options = parser().parse_args(arguments)
    try:
        options.run(Lake.at(options.lake), options)
    except MarsError as error:
        print(f"mars-assets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
