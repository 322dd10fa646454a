"""The command ``mars-assets``: lakes, deployments, exports, finished models."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any, get_args

from mars_assets.classification.predict_folder import predict_pictures, scale_note
from mars_assets.craters.agreement import compare_lists
from mars_assets.craters.agreement_files import in_words, write_comparison
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.deployment.levels import LEVELS
from mars_assets.doctor.findings import Surroundings
from mars_assets.encoders.registry import ENCODERS
from mars_assets.encoders.weights import is_installed
from mars_assets.errors import MarsError
from mars_assets.images import pictures_below
from mars_assets.instance import SETTINGS_FILE, instance_home, write_instance_settings
from mars_assets.labels.preview import preview_export
from mars_assets.lake import DEFAULT_LAKE, GEOPACKAGE, MARS_WEIGHTS, PAGE, Lake
from mars_assets.models.versions import ModelVersion, current_model, current_weights
from mars_assets.prithvi.weights import export_encoder, load_encoder
from mars_assets.progress import Progress
from mars_assets.segmentation.maps import LEAST_MAPPED, MapRequest, map_scene
from mars_assets.segmentation.predict_folder import outline_pictures
from mars_assets.segmentation.task import smallest_evaluated, smallest_mapped
from mars_assets.storage.files import (
    as_rows,
    explained_errors,
    printable,
    user_path,
    write_csv,
    write_json,
    write_table,
)
from mars_assets.tasks import TASKS
from mars_assets.training.compute import Compute, DeviceChoice, PrecisionChoice, choose_compute
from mars_assets.transfer.protocol import TransferStudy, study_of

if TYPE_CHECKING:
    import pandas as pd

EXPORTED = (*(task.model for task in TASKS), "mars_weights", "prithvi_weights")
TABLES = (".csv", ".parquet", ".json")
"""Suffixes of the tables that the commands write."""


def _init(lake: Lake, options: argparse.Namespace) -> None:
    """Create the lake's inbox and the settings of its Dagster instance."""
    home = instance_home()
    written = write_instance_settings(home)
    with explained_errors(lake.inbox):
        lake.inbox.mkdir(parents=True, exist_ok=True)
    print(f"{lake.inbox}: the folder for label exports")
    print(f"{home / SETTINGS_FILE}: Dagster's settings" + ("" if written else ", which existed"))


def _deploy(lake: Lake, options: argparse.Namespace) -> None:
    from mars_assets.deployment.set_up import deploy

    if os.environ.get("MARS_LAKE") and lake != Lake.at(os.environ["MARS_LAKE"]):
        raise MarsError("--lake names another folder than MARS_LAKE, where services and runs look: leave --lake out")
    deploy(options.level, options.gpus)


def _export(lake: Lake, options: argparse.Namespace) -> None:
    """Export the encoder of a model in use to TerraTorch and other tools.

    ``TARGET.json`` describes it: ``prithvi`` (architecture, bands, statistics) and ``input`` (normalisation of the
    input).
    """
    from mars_assets.training.augmentation import FLAT

    name, target = options.model, options.target
    about = target.with_name(target.name + ".json")
    _require_writable(target.parent, may_be_new=True)
    _refuse_name(target)
    _refuse_name(about)
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
    write_json(about, {"prithvi": encoder.config.to_dict(), "input": normalized})
    print(f"{target}: the encoder of {name}, in the published layout")
    print(f"{about}: its architecture, bands and normalisation")


def _encoders(lake: Lake, options: argparse.Namespace) -> None:
    rows = [("name", "size", "bands", "patch", "trained on", "licence", "publication", "installed")]
    for name, published in ENCODERS.items():
        config = published.config
        seen = getattr(config, "seen", config.bands)
        size = f"{config.embed_dim} wide, {config.depth} deep"
        here = "yes" if is_installed(lake, name) else ""
        patch = "{} x {}".format(*config.patch_size[1:])
        rows.append(
            (name, size, str(len(seen)), patch, published.trained_on, published.licence, published.publication, here)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _study(lake: Lake, options: argparse.Namespace) -> None:
    """Say what a transfer study would compute, and how long that would take."""
    from mars_assets.transfer.plan import in_words, plan_of
    from mars_assets.transfer.run import StudyJob

    study = TransferStudy() if options.config is None else study_of(options.config)
    compute = choose_compute(options.device, options.precision)
    print(in_words(plan_of(StudyJob(lake, study, compute=compute, progress=_to_terminal()))))


def _predict(lake: Lake, options: argparse.Namespace) -> None:
    model, compute, progress = _started(lake, "cls_model", options)
    table = predict_pictures(model.folder, options.folder, compute, progress)
    about = {"model_version": model.version, "recipe": model.config["recipe"]}
    note = scale_note(model.folder, pictures_below(options.folder))
    _write(options.out, table, about | ({"scale": note} if note else {}))
    print(f"{options.out}: {len(table)} images by cls_model {model.version}, the least certain first")
    print(f"{(table['probability'] >= 0.5).sum()} of them are predicted to contain a crater")
    if unread := (table["problem"] != "").sum():
        print(f"{unread} could not be read: see the column 'problem'")


def _outline(lake: Lake, options: argparse.Namespace) -> None:
    model, compute, progress = _started(lake, "seg_model", options)
    if options.masks:
        _require_writable(options.masks, may_be_new=True)
    smallest = smallest_evaluated(lake, model) if options.smallest is None else options.smallest
    with TemporaryDirectory() as temporary:
        masks = options.masks or Path(temporary)
        table, problems = outline_pictures(model, options.folder, masks, compute, progress)
    table = table[table["diameter_px"] >= smallest]
    _write(options.out, table, {"model_version": model.version, "recipe": model.config["recipe"]})
    print(f"{options.out}: {len(table)} craters in {table['image'].nunique()} images by seg_model {model.version}")
    if smallest:
        print(f"craters narrower than {smallest:.1f} pixels are left out (--smallest)")
    elif options.smallest is None:
        print("the model was not evaluated, so craters of every size are listed: materialize 'seg_evaluation'")
    for name, problem in problems.items():
        print(f"{name} was skipped: {problem}")


def _map(lake: Lake, options: argparse.Namespace) -> None:
    _require_writable(options.out, may_be_new=True)
    model, compute, progress = _opened(lake, "seg_model", options)
    smallest = smallest_mapped(lake, model) if options.smallest is None else options.smallest
    if not LEAST_MAPPED <= smallest < math.inf:
        raise MarsError(
            f"--smallest {smallest:g}: give at least {LEAST_MAPPED:g} pixels, as smaller craters have no shape"
        )
    bands = tuple(options.bands) if options.bands else None
    request = MapRequest(options.raster, smallest, options.label, bands, options.nodata)
    made = map_scene(model, request, options.out, compute, progress)
    print(f"{options.out}: {made['craters']} craters of {request.name} by seg_model {model.version}")
    print(f"craters narrower than {smallest:.1f} pixels are left out (--smallest)")
    if options.smallest is None and not smallest_evaluated(lake, model):
        print("the model was not evaluated, so that is a guess: materialize 'seg_evaluation'")
    if made["counted_m2"] is None:
        print("the raster is not map projected: places and sizes are in pixels, and there are no files for ages")
    else:
        print(f"counted over {made['counted_m2'] / 1e6:.4g} km2, {made['counted_craters']} with their centre in it")
    print(f"to look at it: {options.out / PAGE}, or {options.out / GEOPACKAGE} in QGIS")


def _compare(lake: Lake, options: argparse.Namespace) -> None:
    """Compare craters with somebody else's, and write how far they agree."""
    _require_writable(options.out, may_be_new=True)
    agreement = compare_lists(read_craters(options.ours), read_craters(options.theirs))
    for note in agreement.notes:
        print(f"note: {note}")
    for sentence in in_words(agreement):
        print(sentence)
    for path in write_comparison(agreement, options.out):
        print(f"{path}")


def _check(lake: Lake, options: argparse.Namespace) -> None:
    progress = Progress(lambda line: print(printable(line), file=sys.stderr))
    previews = {path: preview_export(lake, path, progress) for path in options.exports}
    print(printable("\n\n".join(preview.text for preview in previews.values())))
    if doubtful := [path.name for path, preview in previews.items() if not preview.is_complete]:
        raise MarsError(f"not all labels of {', '.join(doubtful)} would be used: see above")


def _doctor(lake: Lake, options: argparse.Namespace) -> int:
    from mars_assets.doctor.examination import examine

    progress = Progress(lambda line: print(printable(line), file=sys.stderr))
    surroundings = Surroundings(lake, wait=options.wait, progress=progress)
    return examine(surroundings, lambda line: print(line, flush=True), json=options.json)


def _started(lake: Lake, name: str, options: argparse.Namespace) -> tuple[ModelVersion, Compute, Progress]:
    """Refuse a table that could not be written, before any work."""
    out: Path = options.out
    if out.suffix.lower() not in TABLES:
        raise MarsError(f"{out} has the suffix {out.suffix!r}: name a file that ends in {', '.join(TABLES)}")
    _require_writable(out.parent)
    _refuse_name(out)
    return _opened(lake, name, options)


def _opened(lake: Lake, name: str, options: argparse.Namespace) -> tuple[ModelVersion, Compute, Progress]:
    return current_model(lake, name), choose_compute(options.device, options.precision), _to_terminal()


def _to_terminal() -> Progress:
    return Progress(lambda line: print(printable(line), file=sys.stderr))


def _refuse_name(file: Path) -> None:
    """Refuse a name that a file cannot have."""
    with explained_errors(file), suppress(FileNotFoundError):
        file.stat()  # fails where the name is too long
    if file.is_dir():
        raise MarsError(f"{file} is a folder: name a file")


def _require_writable(folder: Path, *, may_be_new: bool = False) -> None:
    """Write a file into a folder, or where that would be created, and remove it."""
    try:
        existing = (path for path in (folder, *folder.parents) if not may_be_new or path.exists())
        with TemporaryFile(dir=next(existing)):
            pass
    except OSError as error:
        raise MarsError(
            f"nothing can be written into {folder} ({error.strerror}): name a folder that exists and may be written to"
        ) from error


def _write(out: Path, table: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write a table in the format that its file's suffix names."""
    match out.suffix.lower():
        case ".parquet":
            write_table(out, table, about)
        case ".json":
            write_json(out, as_rows(table.astype(object).where(table.notna(), None)))
        case _:
            write_csv(out, table)


def _of_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=user_path, help="folder of images, grey or RGB")
    _computing(command)


def _computing(command: argparse.ArgumentParser) -> None:
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
        "DAGSTER_HOME names. Settings of yours are never replaced.",
    )
    init.set_defaults(run=_init)
    deploy = commands.add_parser(
        "deploy",
        help="set up an instance for several people",
        description="Set up Dagster's history in Postgres, and the services that show it and start runs: on one "
        "workstation, on several with Ray, or on a Slurm cluster. Needs DAGSTER_HOME, MARS_LAKE, DAGSTER_PG_HOST, "
        "DAGSTER_PG_USER, DAGSTER_PG_PASSWORD, DAGSTER_PG_DB and, where it is not 5432, DAGSTER_PG_PORT; ray also "
        "needs MARS_RAY_DASHBOARD. Writes Dagster's settings, in which secrets are names of variables, creates "
        "Dagster's tables, sets the limits of pools, and writes units for systemd. Settings that you have edited are "
        "never replaced; own.yaml in DAGSTER_HOME is put over the project's. Run it again after an update, or with "
        "another number of GPUs.",
    )
    deploy.add_argument("level", choices=LEVELS, help="what runs are computed on")
    deploy.add_argument(
        "--gpus", type=int, metavar="N", help="runs that may use a GPU at once; by default the GPUs of this machine"
    )
    deploy.set_defaults(run=_deploy)
    table = f"table to write, {', '.join(TABLES)} (%(default)s)"
    export = commands.add_parser(
        "export",
        help="write an encoder in Prithvi's published layout",
        description="Write the encoder of the model in use as a state dict in Prithvi's published layout, which "
        "TerraTorch accepts as ckpt_path.",
    )
    export.add_argument("model", choices=EXPORTED, help="model whose encoder to export")
    export.add_argument("target", type=user_path, help="file to write, .pt or .safetensors")
    export.set_defaults(run=_export)
    encoders = commands.add_parser(
        "encoders",
        help="list the published encoders",
        description="List the published encoders that recipes may name by encoder, and which of them the asset "
        "encoder_weights has installed in the lake.",
    )
    encoders.set_defaults(run=_encoders)
    study = commands.add_parser(
        "study",
        help="say what a transfer study would take",
        description="Say which runs the asset transfer_study would make, which of them are done, and about how long "
        "the others would take on this machine. Encoders and heads are timed for some seconds; none is trained.",
    )
    study.add_argument("--plan", action="store_true", required=True, help="print the plan")
    study.add_argument(
        "-c", "--config", type=user_path, metavar="FILE", help="run configuration with settings of transfer_study"
    )
    _computing(study)
    study.set_defaults(run=_study)
    predict = commands.add_parser(
        "predict",
        help="predict the probability of a crater for each image in a folder",
        description="Write a table of the current cls_model's probabilities for all images below "
        "a folder: image, probability, uncertainty (entropy in bits), problem.",
    )
    predict.add_argument("--out", type=user_path, default=Path("predictions.parquet"), help=table)
    _of_images(predict)
    predict.set_defaults(run=_predict)
    check = commands.add_parser(
        "check",
        help="say what labelled_crops would make of an export",
        description="Read exports as labelled_crops would, each by itself and without touching the lake, and say what "
        "they give: images, classes, craters, splits, groups, and what is left out and why. The exit status is 1 if "
        "not all labels would be used.",
    )
    check.add_argument("exports", type=user_path, nargs="+", metavar="ZIP", help="zip of an export")
    check.set_defaults(run=_check)
    outline = commands.add_parser(
        "outline",
        help="list the craters in a folder of images",
        description="Write a table of the craters that the current seg_model finds in all images below a "
        "folder: centre and diameter in pixels, mean probability, and whether the border cuts the crater.",
    )
    outline.add_argument("--out", type=user_path, default=Path("craters.csv"), help=table)
    outline.add_argument(
        "--masks", type=user_path, help="folder for the predicted masks: 8-bit PNG, crater from 128 up"
    )
    outline.add_argument(
        "--smallest",
        type=float,
        metavar="PIXELS",
        help="smallest diameter to list; by default that of the smallest crater in the model's evaluation",
    )
    _of_images(outline)
    outline.set_defaults(run=_outline)
    mapped = commands.add_parser(
        "map",
        help="map the craters of a whole scene",
        description="Look for craters of all sizes in a raster: a HiRISE product, or a GeoTIFF, cloud-optimised "
        "GeoTIFF, PNG or other image of Mars by any sensor. Write them with places and sizes on the ground, and the "
        "area in which they were counted, for QGIS (craters.gpkg, probability.tif), for craterstats (.scc, .diam, "
        "_CRATER and _AREA shapefiles), as tables (craters.parquet, craters.csv), and to look at (map.html, "
        "overview.png). A run that was killed goes on where it was.",
    )
    mapped.add_argument("raster", type=user_path, help="the scene")
    mapped.add_argument("--out", type=user_path, required=True, metavar="FOLDER", help="folder of the files to write")
    mapped.add_argument("--label", type=user_path, help="detached label of a HiRISE product, which gives its position")
    mapped.add_argument(
        "--bands", type=int, nargs="+", metavar="BAND", help="one band or three (red, green, blue) to use, from 1"
    )
    mapped.add_argument("--nodata", type=float, metavar="VALUE", help="value without data that the file does not state")
    mapped.add_argument(
        "--smallest",
        type=float,
        metavar="PIXELS",
        help="smallest diameter to map; by default that of the smallest crater in the model's evaluation",
    )
    _computing(mapped)
    mapped.set_defaults(run=_map)
    compare = commands.add_parser(
        "compare",
        help="compare craters with a catalogue that somebody else made",
        description="Match the craters of two lists one to one, and write how far they agree: precision, recall, F1 "
        "and average precision by size, latitude and terrain, bias and spread of sizes and places, reliability of "
        "probabilities (comparison.csv, comparison.json, comparison.png), and every crater that was found, missed or "
        "false (matches.csv). A list is a GeoPackage, shapefile, CSV, (Geo)Parquet or .scc, or the folder of a map. "
        "NAME.yaml beside a file states columns and units that are not known by their names.",
    )
    compare.add_argument("ours", type=user_path, metavar="OURS", help="folder of a crater map, or a file")
    compare.add_argument("theirs", type=user_path, metavar="THEIRS", help="file of the catalogue to compare with")
    compare.add_argument("--out", type=user_path, required=True, metavar="FOLDER", help="folder of the files to write")
    compare.set_defaults(run=_compare)
    doctor = commands.add_parser(
        "doctor",
        help="check this machine, the lake's file system and Dagster's instance",
        description="Measure and check what the project asks of this machine, of the lake's file system and of the "
        "Dagster instance, and say for each finding what to do. Run it on every host that uses the lake: each leaves a "
        "record in the lake, with which the others compare theirs. The exit status is 1 if something is wrong.",
    )
    doctor.add_argument("--json", action="store_true", help="report for machines")
    doctor.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for other hosts that run the same command, and measure when each sees what the other wrote",
    )
    doctor.set_defaults(run=_doctor)
    return parser


def seconds(text: str) -> float:
    """Parse a duration.

    A parser says what it expects by the name of this function.
    """
    if not 0 <= (duration := float(text)) < math.inf:
        raise ValueError
    return duration


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, or 1 after an error that the user can correct, or after problems that the doctor found.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that is not UTF-8 is printed, too
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parser().parse_args(arguments)
        return int(options.run(Lake.at(options.lake), options) or 0)
    except MarsError as error:
        print(printable(f"mars-assets: {error}"), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
