"""Inboxes to fuzz the ingest with: seeds, random changes, and what holds of the result.

An inbox is a mapping of file names to bytes; the fuzzers differ in where their random numbers come from.
"""

import contextlib
import functools
import io
import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pycocotools import mask as coco

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.images import image_size, read_label_image, read_rgb
from mars_assets.labels.build import LabelReport, build_labelled_crops, update_labelled_crops
from mars_assets.labels.checks import mask_problems, schema_problems
from mars_assets.labels.exports import open_splits
from mars_assets.labels.formats.image import is_image, original_name
from mars_assets.labels.formats.layout import _is_of_a_mac
from mars_assets.labels.preview import describe
from mars_assets.labels.table import mask_path, read_labelled_crops
from mars_assets.labels.zip_archive import open_export
from mars_assets.lake import Lake
from mars_assets.storage.files import printable
from mars_assets_tests.changes import DAMAGED_ZIP
from mars_assets_tests.labels.conftest import image_bytes
from mars_assets_tests.labels.test_class_names import _masks, _table, _yolo, two_classes

Inbox = dict[str, bytes]

FILES = (
    *("a.v1.zip", "a.v2.zip", "A.v1i.coco (1).ZIP", "b.zip", "ä b.v3.folder.zip", "n" * 251 + ".zip"),
    *("a.v1.zip.part", "a.tar.gz", os.fsdecode(b"a.v1-\xe9.zip")),
)
PIECES = (
    *b'0 1 -1 0.5 1e400 nan 0x1 99999999999999999999 true null no crater ridge ; , - : " [ { } &a *a \\ud800'.split(),
    *b"../ ./ / \\ ._ README train valid test Train/ images/ labels/ _mask .png .jpg .webp .rf. _JPG".split(),
    *(b"", b" ", b"Crater ", b"\t", b"\r", b"\n", b"\0", b"\xa0", b"\xff", b"9" * 300),
    *(text.encode() for text in ("\ufeff", "é", "e\u0301", "\u2028", "İ", "ß", "𝒜")),
)
SHAPES = ([], {}, [[]], [0], [1, 2, 3, 4, 5, 6], [[1, 2] * 3], [[8, 8, 9, 8, 9, 9], [30, 30, 40, 30, 40, 40]], {"a": 1})
RUNS = ({"size": [48, 48], "counts": c} for c in ([0, 2304], [4, 6, 2294], "0Pl1", "", [], [2304.0], ["2304"], 7))
VALUES = (
    *(None, True, False, 0, 1, -1, 2.0, 0.5, 10**20, -(10**20), 1e308, float("nan"), float("inf"), "", "0", " 2 "),
    *("crater", "Crater ", "ridge", "\ud800", "../a.jpg", *SHAPES, *RUNS),
)
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "TGA", "ICO")
PICTURES = (b".jpg", b".png", b".webp", b".tif")
UTF8, DESCRIPTOR = 0x800, 8


@dataclass(frozen=True)
class Member:
    """An entry of a zip, as it is stored; the name before its content may differ from that in the directory."""

    name: bytes
    content: bytes
    method: int = zipfile.ZIP_STORED
    flags: int = 0
    extra: bytes = b""
    mode: int = 0
    local_name: bytes | None = None


def unpack(content: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [
            Member(
                entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF8 else "cp437"),
                archive.read(entry),
                entry.compress_type,
                entry.flag_bits & ~DESCRIPTOR,
                entry.extra,
                entry.external_attr >> 16,
            )
            for entry in archive.infolist()
        ]


def pack(members: list[Member], comment: bytes = b"") -> bytes:
    body, directory = b"", b""
    for member in members:
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        deflated = member.method == zipfile.ZIP_DEFLATED
        data = deflate.compress(member.content) + deflate.flush() if deflated else member.content
        kind = struct.pack("<HHHHH", 20, member.flags, member.method, 0, 33)
        sizes = struct.pack("<III", zlib.crc32(member.content), len(data), len(member.content))
        later = member.flags & DESCRIPTOR
        name = member.name if member.local_name is None else member.local_name
        lengths = struct.pack("<HHHHHII", len(member.name), len(member.extra), 0, 0, 0, member.mode << 16, len(body))
        directory += b"PK\1\2" + b"\x14\3" + kind + sizes + lengths + member.name + member.extra
        body += b"PK\3\4" + kind + (bytes(12) if later else sizes) + struct.pack("<HH", len(name), len(member.extra))
        body += name + member.extra + data + (b"PK\7\x08" + sizes if later else b"")
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), len(comment))
    return body + directory + b"PK\5\6" + end + comment


def packed(inbox: Inbox) -> bytes:
    """Pack an inbox as one zip of its files."""
    return pack([Member(os.fsencode(name), content) for name, content in inbox.items()])


def unpacked(content: bytes) -> Inbox:
    """Unpack what :func:`packed` made; anything else, with which libFuzzer begins, is an empty inbox."""
    members = unpack(content) if zipfile.is_zipfile(io.BytesIO(content)) else []
    return {os.fsdecode(member.name): member.content for member in members}


@functools.cache
def seeds() -> list[Inbox]:
    """Small exports of all formats; with MARS_SHARED also reported ones, and parts of real ones."""
    makers = (two_classes, _runs, _yolo, _masks, _table, _folders)
    found = [_of_entries(make(name)) for make in makers for name in ("ridge", "no crater")]
    data = Path(os.environ.get("MARS_SHARED", "../shared")) / "data"
    for folder in sorted(data.glob("reported/*/")):
        if zips := {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}:
            found.append(zips)
    return [*found, *({path.name: _part_of(path)} for path in sorted(data.glob("exports/*.zip")))]


def _runs(name: str) -> dict[str, bytes | str]:
    """COCO whose outlines are compressed run lengths."""
    entries = two_classes(name)
    for file in [file for file in entries if file.endswith(".json")]:
        content = json.loads(entries[file])
        for one in content["annotations"]:
            (run,) = coco.frPyObjects(one["segmentation"], 48, 48)
            one["segmentation"] = {"size": run["size"], "counts": run["counts"].decode()}
        entries[file] = json.dumps(content)
    return entries


def _folders(name: str) -> dict[str, bytes | str]:
    kinds = ("Crater", "NoCrater", name)
    pictures = {kind: image_bytes(number, suffix="png") for number, kind in enumerate(kinds)}
    return {f"{split}/{kind}/{split}.png": pictures[kind] for split in ("train", "valid") for kind in kinds}


def _of_entries(entries: dict[str, bytes | str]) -> Inbox:
    contents = {name: part if isinstance(part, bytes) else part.encode() for name, part in entries.items()}
    return {"a.v1.zip": pack([Member(name.encode(), part, flags=UTF8) for name, part in contents.items()])}


def _part_of(path: Path, images: int = 2, side: int = 96, outlines: int = 4) -> bytes:
    """Cut an export down to the first images of each folder, made smaller, with their first outlines."""
    folders: dict[str, list[str]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
        kept = [name for names in folders.values() for name in [n for n in names if n.endswith(".jpg")][:images]]
        contents = {name: _smaller(archive.read(name), side) for name in kept}
        for name in (name for names in folders.values() for name in names if name.endswith(".json")):
            content = json.loads(archive.read(name))
            content["images"] = [
                i for i in content["images"] if f"{PurePosixPath(name).parent}/{i['file_name']}" in kept
            ]
            annotations = []
            for image in content["images"]:
                scale = side / image["width"]
                for one in [a for a in content["annotations"] if a["image_id"] == image["id"]][:outlines]:
                    rings = [[round(v * scale, 1) for v in ring] for ring in one["segmentation"]]
                    annotations.append(one | {"segmentation": rings})
                image |= {"width": side, "height": round(image["height"] * scale)}
            contents[name] = json.dumps(content | {"annotations": annotations}).encode()
    return pack([Member(name.encode(), content) for name, content in contents.items()])


def _smaller(content: bytes, side: int) -> bytes:
    image, buffer = Image.open(io.BytesIO(content)), io.BytesIO()
    image.resize((side, round(image.height * side / image.width))).save(buffer, "JPEG")
    return buffer.getvalue()


def shown(inbox: Inbox) -> str:
    """List an inbox's files, and the text in them, for a person."""
    lines = []
    for file, content in inbox.items():
        lines.append(f"{file}: {len(content)} bytes")
        with contextlib.suppress(Exception):
            for member in unpack(content):
                short = len(member.content) if b"\0" in member.content else member.content
                lines.append(f"  {replace(member, content=b'')}: {short!r}")
    return "\n".join(lines)


Mutate = Callable[[bytes, Random], bytes]


def scrambled(content: bytes, random: Random) -> bytes:
    """Cut off the end, or flip some bits."""
    if not content or not random.randrange(2):
        return content[: random.randint(0, len(content))]
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def changed_inbox(inbox: Inbox, random: Random, mutate: Mutate = scrambled) -> Inbox:
    """Change one of the inbox's exports, and sometimes put another one beside it."""
    inbox = dict(inbox)
    match random.randrange(12):
        case 0 if len(inbox) < 3:
            inbox[random.choice(FILES)] = random.choice(list(random.choice(seeds()).values()))
        case 1:
            inbox[random.choice(FILES)] = inbox.pop(random.choice(sorted(inbox)))
    file = random.choice(sorted(inbox))
    content = inbox[file]
    try:
        members = unpack(content) if random.randrange(20) else []
    except DAMAGED_ZIP:
        members = []
    if not members:
        return inbox | {file: mutate(content, random)}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        members = _changed(members, random, mutate)
    start = b"MZ" * 9 if not random.randrange(20) else b""
    return inbox | {file: start + pack(members, random.choice(PIECES) if not random.randrange(10) else b"")}


def _changed(members: list[Member], random: Random, mutate: Mutate) -> list[Member]:
    if not members:
        return members
    labels = [place for place, member in enumerate(members) if not member.name.lower().endswith(PICTURES)]
    place = random.choice(labels) if labels and random.randrange(3) else random.randrange(len(members))
    member = members[place]
    match random.randrange(24):
        case 0:
            return [*members[:place], *members[place + 1 :]]
        case 1 | 2:
            name = _spliced(member.name, random) if random.randrange(8) else member.name
            return [*members, replace(random.choice(members), name=name)]
        case 3 | 4:
            changed = replace(member, name=_spliced(member.name, random))
        case 5:
            changed = replace(member, name=random.choice([bytes.upper, bytes.lower, bytes.title])(member.name))
        case 6:
            changed = replace(member, local_name=_spliced(member.name, random))
        case 7:
            changed = replace(member, content=random.choice(members).content)
        case 8:
            changed = _otherwise_stored(member, random)
        case 9 | 10:
            changed = replace(member, content=mutate(member.content, random))
        case _:
            changed = replace(member, content=_changed_content(member, random))
    return [*members[:place], changed, *members[place + 1 :]]


def _otherwise_stored(member: Member, random: Random) -> Member:
    match random.randrange(4):
        case 0:
            return replace(member, method=random.choice([0, 8, 8, 9, 12, 14, 93]))
        case 1:
            return replace(member, flags=member.flags ^ random.choice([1, DESCRIPTOR, 32, 64, UTF8, 0x2000]))
        case 2:
            return replace(member, mode=random.choice([0o120777, 0o40755, 0o100644, 0o10644]))
        case _:
            name = b"\1" + struct.pack("<I", zlib.crc32(member.name)) + _spliced(member.name, random)
            fields = [(0x7075, name), (1, bytes(8)), (0x5455, b"\1" + bytes(4)), (0x9901, b"\2\0AE\3\x08\0")]
            kind, content = random.choice(fields)
            extra = struct.pack("<HH", kind, len(content)) + content
            return replace(member, extra=extra[: None if random.randrange(4) else random.randrange(len(extra))])


def _changed_content(member: Member, random: Random) -> bytes:
    if member.name.lower().endswith(PICTURES):
        return _saved_otherwise(member.content, random)
    if member.name.endswith(b".json") and random.randrange(6):
        try:
            return json.dumps(_changed_json(json.loads(member.content), random)).encode()
        except (ValueError, IndexError):
            pass
    numbers = list(re.finditer(rb"[-+.\d]+", member.content))
    lines = member.content.splitlines(keepends=True)
    match random.randrange(4):
        case 0 if numbers:
            number = random.choice(numbers)
            value = random.choice([str(random.uniform(-2, 2)).encode(), str(random.randint(-2, 300)).encode(), *PIECES])
            return member.content[: number.start()] + value + member.content[number.end() :]
        case 1 if lines:
            place = random.randrange(len(lines))
            again = random.choice([[], [lines[place]] * 2, [lines[place], b"\n"], [random.choice(lines)]])
            return b"".join([*lines[:place], *again, *lines[place + 1 :]])
    return _spliced(member.content, random)


def _spliced(text: bytes, random: Random) -> bytes:
    start = random.randint(0, len(text))
    stop = min(len(text), start + random.choice([0, 0, 1, 2, 4, 8]))
    return text[:start] + random.choice(PIECES) + text[stop:]


def _changed_json(content: Any, random: Random) -> Any:
    """Replace, remove or repeat something at a random place."""
    place, way = content, []
    while isinstance(place, dict | list) and place and (not way or random.randrange(5)):
        key = random.choice(sorted(place)) if isinstance(place, dict) else random.randrange(len(place))
        way.append((place, key))
        place = place[key]
    holder, key = way[-1]
    match random.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.append(holder[key])
        case 2 if isinstance(place, int | float):
            holder[key] = random.choice([place + 1, float(place), str(place), -place, place * 1000])
        case _:
            holder[key] = random.choice(VALUES)
    return content


def _saved_otherwise(content: bytes, random: Random) -> bytes:
    """Save a picture in another mode, format or size, or with an orientation."""
    mode, kind, side = random.choice((None, *MODES)), random.choice(FORMATS), random.choice([0] * 8 + [1, 17, 300])
    options: dict[str, Any] = {"save_all": True} if not random.randrange(8) else {}
    if random.randrange(2):
        exif = Image.Exif()
        exif[0x0112] = random.randint(0, 9)
        options["exif"] = exif
    if not random.randrange(4):
        options["transparency"] = random.randrange(256)
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if mode == "LA" and random.randrange(2):
                image.putalpha(random.randrange(256))
            changed = image.convert(mode or image.mode)
            if side:
                changed = changed.resize((side, side))
            if "save_all" in options and kind != "JPEG2000":
                options["append_images"] = [changed.rotate(180)]
            if mode == "F" and kind == "PNG":
                return _of_16_bits(np.asarray(image.convert("RGB")), random)
            changed.save(buffer, kind, **options)
    except Exception:  # Pillow cannot save this mode so
        return content
    return buffer.getvalue()


def _of_16_bits(pixels: np.ndarray, random: Random) -> bytes:
    import cv2

    return cv2.imencode(".png", pixels.astype(np.uint16) * random.choice([1, 257]))[1].tobytes()


def check_ingest(*inboxes: Inbox) -> bool:
    """Check that inboxes, one after the other in a lake, are read, or refused with a message.

    Returns:
        Whether the last one was read.
    """
    with tempfile.TemporaryDirectory() as name:
        lake = Lake(Path(name) / "lake")
        lake.inbox.mkdir(parents=True)
        read = [_is_read(lake, inbox, number) for number, inbox in enumerate(inboxes)]
        assert os.listdir(name) == ["lake"]
    return read[-1]


def _is_read(lake: Lake, inbox: Inbox, time: int) -> bool:
    for path in lake.inbox.glob("*.*"):
        path.unlink()
    for file, content in inbox.items():
        (lake.inbox / file).write_bytes(content)
        os.utime(lake.inbox / file, (time, time))  # long ago: it is not being copied
    before = lake.labelled_crops.read_bytes() if lake.labelled_crops.exists() else None
    refused = None
    try:
        table, report = build_labelled_crops(lake)
    except MarsError as error:
        refused = str(error)
    if refused is None:
        _rows_agree(lake, table)
        _nothing_is_passed_over(lake, table, report, inbox)
        assert printable("\n".join(describe(lake, report))).encode()
        again, _ = update_labelled_crops(lake)
        assert again["labels_sha"].tolist() == table["labels_sha"].tolist()
    else:
        assert printable(refused).encode()
        assert "does not match its schema" not in refused
        if before is not None:
            assert lake.labelled_crops.read_bytes() == before
            _rows_agree(lake, read_labelled_crops(lake))
    left = [path.read_bytes() for path in (*lake.inbox.glob("*.*"), *lake.rejected.glob("*"))]
    assert set(inbox.values()) <= set(left)
    return refused is None


def _rows_agree(lake: Lake, table: pd.DataFrame) -> None:
    """Check that image, masks and counts of each row agree."""
    assert len(table)
    assert table["image_id"].is_unique
    assert table.groupby("group")["split"].nunique().max() == 1
    for row in table.itertuples():
        path = lake.inside(row.file)
        assert path.resolve().is_relative_to(lake.root.resolve())
        assert image_size(path, "") == read_rgb(path).shape[:2] == (row.height, row.width)
        outlined = not pd.isna(row.n_craters)
        assert outlined or row.label in ("crater", "no_crater")
        if outlined:
            numbers = read_label_image(mask_path(lake, "instances", row))
            assert sorted(np.unique(numbers[numbers > 0])) == list(range(1, row.n_craters + 1))
            filled = read_label_image(mask_path(lake, "filled", row))
            np.testing.assert_array_equal(filled > 0, numbers > 0)
            assert row.crater_fraction == (filled > 0).mean()
    problems = [*schema_problems(lake)[0], *mask_problems(lake)[0]]
    assert [problem for problem in problems if not problem.startswith("no ")] == []


def _nothing_is_passed_over(lake: Lake, table: pd.DataFrame, report: LabelReport, inbox: Inbox) -> None:
    """Check that what has no row is named or counted."""
    exports = {row["file"]: row for row in report.exports}
    others = [row["zip"] for row in report.rejected], report.left_alone, report.unused, report.passed_over
    for file in inbox.keys() - exports.keys():
        start = printable(Path(file).stem[:40])
        assert any(printable(line).startswith(start) for lines in others for line in lines)
    pictures = {lake.inside(file).read_bytes() for file in table["file"]}
    for file, row in exports.items():
        named = (*report.left_out, *report.conflicts)
        bare = []
        for name, content in _images(lake.inbox / file):
            starts = f"{row['project']}: {name}: ", f"{original_name(name)}: "
            is_mask = row["format"] == "png-mask-semantic" and name.lower().endswith("_mask.png")
            if content not in pictures and not is_mask and not any(line.startswith(starts) for line in named):
                bare.append(name)
        unknown = sum(one["images"] for one in report.unknown_classes if one["project"] == row["project"])
        assert len(bare) <= unknown or "which is read instead" in row["warnings"], bare


def _images(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Read a zip's images; None stands for one that cannot be read."""
    with open_export(path) as archive:
        there = sum(is_image(name) and not _is_of_a_mac(name.parts) for name in map(PurePosixPath, archive.names))
    with open_splits(path) as archive:
        names = [name for name in archive.names if is_image(PurePosixPath(name))]
        assert len(names) == there
        for name in names:
            try:
                yield name, archive.read(name)
            except DamagedFileError:
                yield name, None
