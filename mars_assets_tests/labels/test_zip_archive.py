"""Zips as people's computers write them: separators, names, capitals and methods."""

import io
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mars_assets.errors import DamagedFileError
from mars_assets.labels.exports import open_splits, read_export
from mars_assets.labels.inbox import passed_over
from mars_assets.labels.preview import preview_export
from mars_assets.labels.zip_archive import open_export
from mars_assets.lake import Lake
from mars_assets.pretraining.data import unlabelled_images
from mars_assets_tests.labels.conftest import coco, image_bytes
from mars_assets_tests.labels.test_exports import SMALL

Write = Callable[[str, dict[str, bytes | str]], Path]


def _renamed(layout: str, rename: Callable[[str], str]) -> dict[str, bytes | str]:
    return {rename(name): content for name, content in SMALL[layout].items()}


def _undeclared(path: Path) -> Path:
    """Clear the flag that says that a zip's names are UTF-8, in the local headers and the directory."""
    content = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        found = content.find(magic)
        while found >= 0:
            content[found + place + 1] &= ~0x08
            found = content.find(magic, found + 4)
    path.write_bytes(content)
    return path


def _packed_with(path: Path, method: int) -> Path:
    """Claim another compression method, in the local headers and the directory."""
    content = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        found = content.find(magic)
        while found >= 0:
            content[found + place : found + place + 2] = method.to_bytes(2, "little")
            found = content.find(magic, found + 4)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: f"Mars Craters.v1i\\{name}".replace("/", "\\"),
        lambda name: f"./{name}",
        lambda name: f"Top/{name}",
        lambda name: f"Test/{name}",
        lambda name: "/".join((name.split("/")[0].title(), *name.split("/")[1:])) if "/" in name else name,
        lambda name: name.replace("valid/", "VAL/").replace("images/", "Images/").replace("labels/", "LABELS/"),
        lambda name: name.replace("data.yaml", "Data.YML").replace("a.txt", "a.TXT").replace("_mask.png", "_MASK.PNG"),
        lambda name: name.replace("_classes.csv", "_Classes.CSV").replace("_annotations.coco", "_Annotations.COCO"),
        lambda name: name.replace("train/", "training /").replace("valid/", " Validation/"),
    ],
    ids=["backslashes", "in a folder", "dots", "top", "Test", "Train", "VAL", "suffixes", "label files", "blanks"],
)
def test_names_of_other_computers_mean_the_same(write_zip: Write, layout: str, rename: Callable[[str], str]) -> None:
    whole = read_export(write_zip("c.zip", SMALL[layout]))
    entries = _renamed(layout, rename)
    export = read_export(write_zip("d.zip", entries))
    assert (export.images, export.format, export.warnings) == (whole.images, whole.format, whole.warnings)
    for folder in ("train\\", "valid\\"):  # as .NET writes them
        entries[folder] = ""
    assert read_export(write_zip("e.zip", entries)).images == whole.images


@pytest.mark.parametrize("layout", SMALL)
def test_files_next_to_the_enclosing_folder_are_no_obstacle(write_zip: Write, layout: str) -> None:
    whole = read_export(write_zip("c.zip", SMALL[layout]))
    beside = {"README.txt": "x", "notes.docx": "y"} | _renamed(layout, lambda name: f"a/b/{name}") | {"a/more.md": "z"}
    export = read_export(write_zip("d.zip", beside))
    assert (export.images, export.format) == (whole.images, whole.format)
    assert export.warnings == (*whole.warnings, "2 unexpected files were ignored: notes.docx; more.md")
    twice = {"README.roboflow.txt": "x", "data.yaml": "names: [other]"} | _renamed(layout, lambda name: f"a/{name}")
    export = read_export(write_zip("e.zip", twice | {"a/README.roboflow.txt": "* Resize to 640x640 (Stretch)"}))
    assert export.images == whole.images
    assert "Roboflow altered the exported images: Resize to 640x640 (Stretch)" in export.warnings
    if layout == "yolo":
        assert "outside the export/data.yaml" in export.warnings[-2] + export.warnings[-1]


def test_backslashes_do_not_lead_outside(write_zip: Write) -> None:
    for name in ("train\\..\\..\\x.jpg", "\\\\host\\share\\x.jpg", "C:\\x.jpg", "..\\x.jpg"):
        with pytest.raises(DamagedFileError, match="points outside"):
            read_export(write_zip("c.zip", SMALL["folder"] | {name: b"x"}))
    with pytest.raises(DamagedFileError, match=r"'train/Crater/a\.png' twice"):
        read_export(write_zip("c.zip", SMALL["folder"] | {"train\\Crater\\a.png": b"x"}))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("declared", [True, False])
def test_names_in_any_alphabet_are_read(write_zip: Write, form: str, declared: bool) -> None:
    names = ["Čerstvý kráter", "Kráter été", "火星 7", "Ωμέγα"]
    images = [{"id": n, "file_name": f"{name}.png", "height": 8, "width": 8} for n, name in enumerate(names)]
    entries: dict[str, bytes | str] = {"train/_annotations.coco.json": coco(images, [])}
    for name in names:
        entries[unicodedata.normalize(form, f"train/{name}.png")] = image_bytes(1, 8, "png")
    path = write_zip("c.zip", entries)
    export = read_export(path if declared else _undeclared(path))
    assert [image.original for image in export.images] == [unicodedata.normalize("NFC", name) for name in names]
    with open_splits(path) as archive:
        assert all(archive.read(image.entry) for image in export.images)
        assert unicodedata.normalize("NFD", f"train/{names[0]}.png") in archive


def test_names_that_are_not_utf8_stay_as_zip_defines_them(tmp_path: Path) -> None:
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/S?d.png", b"x")
    path.write_bytes(path.read_bytes().replace(b"S?d", b"S\x81d"))
    with open_export(path) as archive:
        assert archive.names == ["train/Süd.png"]  # in code page 437


@pytest.mark.parametrize(("page", "name"), [("cp866", "кратер"), ("gbk", "陨石坑"), ("cp1252", "cratère_é")])
def test_names_in_another_code_page_are_the_reason_that_is_given(write_zip: Write, page: str, name: str) -> None:
    stored = name.encode(page)
    place = b"n" * len(stored)
    images = [{"id": 0, "file_name": f"{name}.png", "height": 8, "width": 8}]
    labels = {"train/_annotations.coco.json": coco(images, [])}
    path = write_zip("c.zip", {f"train/{place.decode()}.png": image_bytes(1, 8, "png")} | labels)
    path.write_bytes(path.read_bytes().replace(place, stored))
    with pytest.raises(DamagedFileError, match=r"not in the archive.*1 names in the zip are not in UTF-8.*in UTF-8 \("):
        read_export(path)
    folder = write_zip("d.zip", {f"train/crater/{place.decode()}.png": image_bytes(1, 8, "png")})
    folder.write_bytes(folder.read_bytes().replace(place, stored))
    assert "1 names in the zip are not in UTF-8" in read_export(folder).warnings[-1]


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_black_image_is_no_bomb(write_zip: Write, kind: str) -> None:
    content = io.BytesIO()
    Image.new("RGB", (700, 700)).save(content, kind)
    whole = read_export(write_zip("c.zip", SMALL["folder"]))
    export = read_export(write_zip("d.zip", SMALL["folder"] | {f"train/Crater/black.{kind}": content.getvalue()}))
    assert len(export.images) == len(whole.images) + 1
    with pytest.raises(DamagedFileError, match="times its size"):
        read_export(write_zip("e.zip", SMALL["folder"] | {"train/Crater/black.png": content.getvalue()}))


def test_a_zip_of_zips_is_said(write_zip: Write) -> None:
    inner = write_zip("c.v1i.coco.zip", SMALL["coco"]).read_bytes()
    for name in ("c.v1i.coco.zip", "downloads/c.v1i.coco.ZIP"):
        with pytest.raises(DamagedFileError, match=r"contains zips: .*c\.v1i\.coco.*put these into the inbox"):
            read_export(write_zip("outer.zip", {name: inner, "readme.txt": "x"}))


def test_a_second_name_in_utf8_counts(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("train/Kr?ter.png")
    name = "train/Krâter 火.png".encode()
    for stored, read in ((b"train/Kr?ter.png", name.decode()), (b"train/another.png", "train/Kr?ter.png")):
        field = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(stored)) + name
        entry.extra = struct.pack("<HH", 0x9999, 3) + b"abc" + field
        with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
            archive.writestr(entry, b"x")
        with open_export(tmp_path / "c.zip") as archive:
            assert archive.names == [read]
            assert archive.read(read) == b"x"


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (93, "Zstandard"), (98, "PPMd"), (77, "method 77")])
def test_methods_that_cannot_be_unpacked_are_named(write_zip: Write, method: int, name: str) -> None:
    path = _packed_with(write_zip("c.zip", SMALL["coco"]), method)
    with pytest.raises(DamagedFileError, match=rf"c\.zip.*{name}.*pack it again with Deflate") as caught:
        read_export(path)
    assert f"method {method}" in str(caught.value)
    assert "copy" not in str(caught.value)


def test_entries_are_found_by_the_names_of_label_files(write_zip: Write) -> None:
    entries = ["train/a.jpg", "train/Süd.JPG", "train/deep/b.jpg", "train/train/c.jpg", "train/c.jpg", "valid/v.jpg",
               "train/X.png", "train/x.PNG"]  # fmt: skip
    with open_export(write_zip("c.zip", dict.fromkeys(entries, b"x"))) as archive:
        for name, entry in {
            "a.jpg": "train/a.jpg",
            "./a.jpg": "train/a.jpg",
            ".\\a.jpg": "train/a.jpg",
            "train/a.jpg": "train/a.jpg",
            "Train\\a.jpg": "train/a.jpg",
            "./train/a.jpg": "train/a.jpg",
            "Mars Craters.v1i.coco/train/a.jpg": "train/a.jpg",
            "/home/me/train/a.jpg": "train/a.jpg",
            "A.JPG": "train/a.jpg",
            "Su\u0308d.jpg": "train/Süd.JPG",
            "deep/b.jpg": "train/deep/b.jpg",
            "deep\\b.jpg": "train/deep/b.jpg",
            "c.jpg": "train/c.jpg",
            "train/c.jpg": "train/train/c.jpg",
            "X.png": "train/X.png",
            "x.png": None,
            "b.jpg": None,
            "v.jpg": None,
            "valid/v.jpg": None,
            "../train/a.jpg": "train/a.jpg",
            "../../etc/passwd": None,
            "": None,
        }.items():
            assert archive.entry("train", name) == entry, name
        assert archive.entry("valid", "val/v.jpg") == "valid/v.jpg"


def test_an_undecodable_directory_is_said(write_zip: Write) -> None:
    path = write_zip("c.zip", {"train/ü.png": b"x"})
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xff"))
    with pytest.raises(DamagedFileError, match=r"c\.zip cannot be opened as a zip"), open_export(path):
        pass


def _tar(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("train/a.jpg"))
    content: bytes = buffer.getvalue()
    return content


OTHER_KINDS = {
    "c.v1i.coco.7z": (b"7z\xbc\xaf\x27\x1c\0\4" + b"x" * 90, "is not packed as a zip: unpack it"),
    "7z under the name.zip": (b"7z\xbc\xaf\x27\x1c\0\4" + b"x" * 90, "is not packed as a zip: unpack it"),
    "rar.zip": (b"Rar!\x1a\x07\x01\0" + b"x" * 90, "is not packed as a zip: unpack it"),
    "c.RAR": (b"unknown to us", "is not packed as a zip: unpack it"),
    "tar.zip": (_tar(""), "is not packed as a zip: unpack it"),
    "c.tar.gz": (_tar("gz"), "is not packed as a zip: unpack it"),
    "gz.zip": (_tar("gz"), "is not packed as a zip: unpack it"),
    "bz2.zip": (_tar("bz2"), "is not packed as a zip: unpack it"),
    "xz.zip": (_tar("xz"), "is not packed as a zip: unpack it"),
    "login.zip": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>Sign in", "is a web page instead of a zip: download it again"),
    "lfs.zip": (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer instead of a zip"),
    "c.zip.crdownload": (b"PK\x03\x04", "is an unfinished download: wait"),
    "text.zip": (b"no archive", "is not a zip"),
    "begun.zip": (b"PK\x03\x04" + b"x" * 90, "cannot be opened as a zip"),
    "zeros.zip": (b"\0" * 99, "cannot be opened as a zip"),
    "empty.zip": (b"", "cannot be opened as a zip"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_what_is_no_zip_is_said_to_be_what_it_is(lake: Lake, tmp_path: Path, name: str) -> None:
    content, said = OTHER_KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"{re.escape(name)} {said}"), open_export(path):
        pass
    with pytest.raises(DamagedFileError, match=f"{re.escape(name)} {said}"):
        unlabelled_images(lake, path)
    preview = preview_export(lake, path)
    assert not preview.is_complete
    assert said in preview.text
    if not name.endswith(".zip"):
        lake.inbox.mkdir(parents=True)
        path.rename(lake.inbox / name)
        assert passed_over(lake.inbox)[0].startswith(f"{name} {said}")


def test_a_folder_is_no_zip(lake: Lake, tmp_path: Path) -> None:
    assert "is a folder: pack it as a zip" in preview_export(lake, tmp_path).text


REPORTED = {
    "A1_backslash_coco": ("coco-segmentation", 6),
    "A1_backslash_folder": ("folder", 6),
    "A3_capital_ZIP": ("folder", 6),
    "A5_utf8_unflagged_coco": ("coco-segmentation", 6),
    "A6_nfd_names": ("coco-segmentation", 6),
    "A7_beside_top": ("coco-segmentation", 6),
    "A8_capital_splits_folder": ("folder", 6),
}


@pytest.mark.parametrize("kind", REPORTED)
def test_reported_archives_are_read(shared: Path, kind: str) -> None:
    (path,) = (shared / "data" / "reported" / kind).iterdir()
    export = read_export(path)
    assert (export.format, len(export.images)) == REPORTED[kind]
    with open_splits(path) as archive:
        assert all(archive.read(image.entry) for image in export.images)


def test_the_reported_method_is_named(shared: Path) -> None:
    (path,) = (shared / "data/reported/A2_deflate64").iterdir()
    with pytest.raises(DamagedFileError, match=r"Deflate64 \(method 9\).*pack it again with Deflate"):
        read_export(path)
