"""Image files are read in one place, by one rule for each kind of pixel."""

import ast
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mars_assets
from mars_assets.errors import DamagedFileError
from mars_assets.images import (
    encode_png,
    image_size,
    is_turned,
    pictures_below,
    png_text,
    read_grey_or_rgb,
    read_label_image,
    read_rgb,
    read_stored,
)
from mars_assets.labels.duplicates import perceptual_hash

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_image_files_are_opened_in_one_module() -> None:
    package = Path(mars_assets.__file__).parent
    opened = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).endswith("Image"))
        or (isinstance(node, ast.ImportFrom) and node.module == "PIL.Image" and "open" in {a.name for a in node.names})
        or (isinstance(node, ast.Attribute) and node.attr in ("imread", "imdecode"))
    }
    assert opened == {"images.py"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_is_read_as_rgb_or_grey_without_an_opaque_alpha(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / "a"
    path.write_bytes(_encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    with Image.open(path) as stored:
        expected, hashed = np.asarray(stored.convert("RGB")), perceptual_hash(stored)
    np.testing.assert_array_equal(read_rgb(path), expected)
    np.testing.assert_array_equal(read_rgb(path.read_bytes(), name="a"), expected)
    # How the hashes of a table written before were computed.
    assert perceptual_hash(Image.fromarray(read_rgb(path))) == hashed
    grey = read_grey_or_rgb(path)
    assert grey.shape == (6, 9, 1 if mode in ("1", "L") else 3)
    np.testing.assert_array_equal(np.broadcast_to(grey, expected.shape), expected)


def test_grey_of_16_bits_is_refused_scaled_or_stored(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(encode_png(deep, "key", "text"))
    with pytest.raises(DamagedFileError, match=r"deep\.png has more than 8 bits .*: stretch it to 8 bits, or wait"):
        read_rgb(path, "wait")
    with pytest.raises(DamagedFileError, match="more than 8 bits"):
        read_grey_or_rgb(path)
    assert read_grey_or_rgb(path, sixteen_bits="scale").tolist() == [[[0], [0], [1], [255]]]
    np.testing.assert_array_equal(read_stored(path, ""), deep)
    np.testing.assert_array_equal(read_label_image(path), deep)
    assert read_stored(path, "").dtype == np.uint16


def _deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow does not write: grey and alpha, RGB or RGBA."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def _tiff(pixels: np.ndarray, **profile: Any) -> bytes:
    """A TIFF by GDAL, of (channels, H, W)."""
    from rasterio.io import MemoryFile

    count, height, width = pixels.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype.name, **profile
        ) as file:
            file.write(pixels)
        content: bytes = memory.read()
        return content


def _jp2(pixels: np.ndarray, **profile: Any) -> bytes:
    from rasterio.io import MemoryFile

    count, height, width = pixels.shape
    with MemoryFile(ext=".jp2") as memory:
        with memory.open(
            driver="JP2OpenJPEG", count=count, height=height, width=width, dtype=pixels.dtype.name,
            REVERSIBLE="YES", QUALITY="100", **profile,
        ) as file:  # fmt: skip
            file.write(pixels)
        content: bytes = memory.read()
        return content


DEEP = RNG.integers(0, 2**16, (40, 50, 4), np.uint16)
PLANES = DEEP.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "content",
    [
        *(_deep_png(DEEP[..., :channels]) for channels in (2, 3, 4)),
        _deep_png(DEEP[..., :3] >> 6),
        _tiff(PLANES[:3], photometric="RGB"),
        _tiff(PLANES[:3], photometric="RGB", interleave="pixel", compress="deflate"),
        _tiff(PLANES[:1]),
        _tiff(PLANES[:1].astype(np.float32)),
        _tiff(PLANES[:1].astype(np.int32)),
        _jp2(PLANES[:3] >> 6, NBITS=10),
        _jp2(PLANES[:1] >> 7, NBITS=9),
    ],
    ids=["LA", "RGB", "RGBA", "10 of 16", "planes", "pixels", "grey", "float", "int", "jp2 of 10", "jp2 of 9"],
)
def test_more_than_8_bits_are_refused_even_where_pillow_hides_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "deep").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"^a has more than 8 bits per channel .*stretch it"):
        read_rgb(content, name="a")
    with pytest.raises(DamagedFileError, match="deep has more than 8 bits per channel"):
        read_grey_or_rgb(tmp_path / "deep")


def test_colour_of_16_bits_is_scaled_as_grey_is_or_refused() -> None:
    deep = DEEP.copy()
    deep[..., 3] = 65535
    for channels in (3, 4):
        scaled = read_grey_or_rgb(_deep_png(deep[..., :channels]), "scale")
        np.testing.assert_array_equal(scaled, deep[..., :3] >> 8)
    grey = read_grey_or_rgb(_deep_png(deep[..., 2:]), "scale")
    np.testing.assert_array_equal(grey, np.repeat(deep[..., 2:3] >> 8, 3, axis=2))
    with pytest.raises(DamagedFileError, match="transparent"):
        read_grey_or_rgb(_deep_png(DEEP), "scale")
    for dark in (_deep_png(deep[..., :3] >> 6), _tiff(PLANES[:1] >> 6)):
        with pytest.raises(DamagedFileError, match="uses the lowest of its 16 bits only"):
            read_grey_or_rgb(dark, "scale")
    for strange in (_tiff(PLANES[:3], photometric="RGB"), _tiff(PLANES[:1].astype(np.float32))):
        with pytest.raises(DamagedFileError, match="more than 8 bits"):
            read_grey_or_rgb(strange, "scale")
    np.testing.assert_array_equal(read_grey_or_rgb(_tiff(PLANES[:1]), "scale"), (PLANES[0] >> 8)[..., None])


def test_stored_values_of_16_bits_are_those_of_one_channel() -> None:
    with pytest.raises(DamagedFileError, match=r"a has channels of more than 8 bits .*: wait"):
        read_stored(_deep_png(DEEP[..., :3]), "wait", "a")
    np.testing.assert_array_equal(read_stored(_tiff(PLANES[:1]), ""), PLANES[0])


def test_stored_numbers_of_a_palette_are_its_indices() -> None:
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0])
    content = _encoded(image)
    assert read_stored(content, "", "a").tolist() == [[0, 1, 1]]
    assert read_rgb(content, name="a").tolist() == [[[9, 9, 9], [200, 0, 0], [200, 0, 0]]]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(RGB),
}
"""By EXIF's orientation, which says at which sides the stored first row and column are shown."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_orientation_in_exif_is_applied_to_pixels_and_size(kind: str, orientation: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": _exif(orientation)}
    content = _encoded(Image.fromarray(RGB), kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "a").write_bytes(content)
    expected = UPRIGHT[orientation]
    for source in (content, tmp_path / "a"):
        np.testing.assert_array_equal(read_rgb(source), expected)
        np.testing.assert_array_equal(read_stored(source, ""), expected)
        assert image_size(source, "") == expected.shape[:2]


def test_a_jpeg_is_turned_and_one_without_a_whole_orientation_is_not() -> None:
    image = Image.fromarray(np.repeat(np.repeat(RGB, 16, 0), 16, 1))
    plain = read_rgb(_encoded(image, "JPEG"))
    np.testing.assert_array_equal(read_rgb(_encoded(image, "JPEG", exif=_exif(8))), np.rot90(plain))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for options in ({"exif": b"Exif\0\0II*\0\xff"}, {"exif": b"Exif\0\0"}, {"exif": _exif(9)}, {"xmp": xmp}):
        content = _encoded(image, "JPEG", **options)
        np.testing.assert_array_equal(read_rgb(content), plain)
        assert image_size(content, "") == plain.shape[:2]


def test_the_orientation_of_a_png_may_follow_its_pixels() -> None:
    content = _encoded(Image.fromarray(RGB), exif=_exif(6))
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    np.testing.assert_array_equal(read_rgb(moved), UPRIGHT[6])
    assert image_size(moved, "") == (9, 6)


def _keyed(mode: str, key: Any, bits: int = 8) -> bytes:
    """A PNG whose pixels are 0, but one of 1, or black and white, with a colour or number that is transparent."""
    image = Image.new(mode, (4, 4))
    image.putpixel((1, 2), (1, 1, 1) if mode == "RGB" else 255 if mode == "1" else 1)
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    return _encoded(image, transparency=key, **({"bits": bits} if bits < 8 else {}))


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        (_keyed("RGB", (1, 1, 1)), _keyed("RGB", (2, 1, 1))),
        (_keyed("L", 1), _keyed("L", 2)),
        (_keyed("1", 1), _encoded(Image.new("1", (4, 4)), transparency=1)),
        (_keyed("1", 255), _encoded(Image.new("1", (4, 4)), transparency=255)),
        (_keyed("P", b"\xff\x7f"), _keyed("P", b"\xff\xff")),
        (_keyed("P", b"\xff\x00", bits=1), _keyed("P", b"\xff\xff", bits=1)),
    ],
    ids=["RGB", "L", "1", "1 as 255", "P", "P of 1 bit"],
)
def test_a_transparent_colour_is_refused_where_a_pixel_has_it(hidden: bytes, shown: bytes) -> None:
    with pytest.raises(DamagedFileError, match=r"^a has transparent pixels.*save it without transparency"):
        read_rgb(hidden, name="a")
    assert read_grey_or_rgb(shown).shape[:2] == (4, 4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_one_transparent_pixel_is_refused(mode: str, kind: str) -> None:
    alpha = np.full((6, 9), 255, np.uint8)
    image = Image.fromarray(RGB).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    image.putalpha(Image.fromarray(alpha))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_rgb(_encoded(image, kind, **options)), expected)
    alpha[3, 4] = 254
    image.putalpha(Image.fromarray(alpha))
    with pytest.raises(DamagedFileError, match="transparent pixels"):
        read_rgb(_encoded(image, kind, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_other_formats_of_8_bits_are_read_by_content(mode: str, kind: str, options: dict[str, Any]) -> None:
    few = Image.fromarray(RGB // 64 * 64).convert(mode)  # a GIF has 256 colours
    content = _encoded(few, kind, **options)
    np.testing.assert_array_equal(read_rgb(content), np.asarray(few.convert("RGB")))
    assert image_size(content, "") == (6, 9)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_several_pages_are_refused(kind: str) -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    with pytest.raises(DamagedFileError, match=r"^a has 2 pages or frames: save each"):
        read_rgb(_encoded(first, kind, save_all=True, append_images=[second]), name="a")


def test_a_tiffs_overviews_are_no_pages_and_a_fourth_channel_is_not_dropped() -> None:
    from rasterio.io import MemoryFile

    pixels = PLANES[:3].astype(np.uint8)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=3, height=40, width=50, dtype="uint8", photometric="RGB", compress="deflate"
        ) as file:
            file.write(pixels)
            file.build_overviews([2, 4])
        content = memory.read()
    with Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 3
    np.testing.assert_array_equal(read_rgb(content), pixels.transpose(1, 2, 0))
    near_infrared = _tiff(PLANES.astype(np.uint8), photometric="RGB", alpha="NO")
    with pytest.raises(DamagedFileError, match="a has 4 channels"):
        read_rgb(near_infrared, name="a")


def test_a_tiffs_mask_is_not_passed_over(tmp_path: Path) -> None:
    import rasterio

    shape = {"count": 3, "height": 40, "width": 50, "dtype": "uint8", "photometric": "RGB"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **shape) as file,
    ):
        file.write(PLANES[:3].astype(np.uint8))
        file.write_mask(np.where(np.arange(50) < 9, 0, 255).astype(np.uint8) * np.ones((40, 1), np.uint8))
    with pytest.raises(DamagedFileError, match=r"a\.tif has a page that is no picture, such as a mask"):
        read_rgb(tmp_path / "a.tif")


def test_the_previews_in_a_jpeg_are_no_pages() -> None:
    image = Image.fromarray(np.repeat(np.repeat(RGB, 16, 0), 16, 1))
    content = _encoded(image, "MPO", save_all=True, append_images=[image.resize((40, 30))])
    np.testing.assert_array_equal(read_rgb(content), read_rgb(_encoded(image, "JPEG")))


@pytest.mark.parametrize("kind", ["P1_kinds", "P2_exif", "P3_formats"])
def test_reported_pictures(kind: str, shared: Path) -> None:
    """Of each kind all show the same, or are refused."""
    refused = {"c_grey16.png", "d_rgb16_full.png", "e_rgb16_10bit.png", "f_greyalpha16_10bit.png",
               "k_half_transparent.png"}  # fmt: skip
    read = {}
    for path in pictures_below(shared / "data" / "reported" / "pictures" / kind):
        if path.name in refused:
            with pytest.raises(DamagedFileError, match=r"more than 8 bits|transparent pixels"):
                read_rgb(path)
        else:
            read[path.name] = read_rgb(path)
            assert image_size(path, "") == read[path.name].shape[:2]
    first = next(iter(read.values())).astype(int)
    for name, pixels in read.items():
        assert pixels.shape == first.shape, name
        assert np.abs(pixels - first).mean() < 12, name


def test_the_text_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(GREY, "label", "sha"))
    assert png_text(path, "label") == "sha"
    assert png_text(path, "other") is None
    assert png_text(tmp_path / "none.png", "label") is None
    path.write_bytes(b"GIF89a")
    assert png_text(path, "label") is None


def test_what_is_damaged_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)))
    path = tmp_path / "a.png"
    half = content[: len(content) // 2]
    for damaged, said in ((b"GIF89a", "cannot be read, since it is not a JPEG"), (half, "cannot be decoded")):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=rf"a\.png {said}.*: (save it as one of these, or )?fetch it again"):
            read_rgb(path, "fetch it again")
        with pytest.raises(DamagedFileError, match=rf"^entry b {said}"):
            read_stored(damaged, "export it again", "entry b")
    assert image_size(path, "") == (64, 64)
    with pytest.raises(DamagedFileError, match="is not a JPEG file: "):
        read_stored(content, "", "a", formats=("JPEG",))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DamagedFileError, match=r"is too large .*: cut it into smaller ones"):
        image_size(path, "")


def test_all_files_are_pictures_but_hidden_ones_and_notes(tmp_path: Path) -> None:
    for name in (
        "b.PNG",
        "a/c.jpeg",
        ".x.png",
        "a/__MACOSX/d.png",
        "e.tif",
        "f.png/g.jpg",
        "h",
        "i.heic",
        "j.txt",
        "Thumbs.db",
        "Icon\r",
        "e.tif.ovr",
        "e.tif.msk",
        "e.tifw",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in pictures_below(tmp_path)] == [
        *("a/c.jpeg", "b.PNG", "e.tif", "f.png/g.jpg", "h", "i.heic")
    ]


def test_links_are_pictures_wherever_they_lead(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, target in {"whole.png": tmp_path / "a.png", "lost.png": "nothing", "folder": tmp_path}.items():
        (folder / name).symlink_to(target)
    (folder / "round.png").symlink_to("round.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert [path.name for path in pictures_below(folder)] == ["folder", "lost.png", "round.png", "whole.png"]
    assert read_rgb(folder / "whole.png").shape == (20, 20, 3)
    for name in ("folder", "lost.png", "round.png"):
        with pytest.raises(DamagedFileError, match=rf"{name} cannot be decoded"):
            read_rgb(folder / name)


def test_only_what_is_not_read_as_stored_is_turned() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        for orientation in (0, 1, 2, 6):
            content = _encoded(Image.fromarray(RGB), kind, exif=_exif(orientation))
            assert is_turned(content) == (orientation > 1)
    assert not is_turned(_encoded(Image.fromarray(RGB)))


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (PLANES[:1].astype(np.int8), {}, "has signed numbers"),
        (PLANES[:3].astype(np.float32), {"photometric": "RGB"}, "is a TIFF, but neither grey nor red, green and blue"),
        (PLANES[:3].astype(np.uint8), {"photometric": "MINISBLACK"}, "is a TIFF, but neither grey"),
    ],
    ids=["signed", "float", "three of grey"],
)
def test_channels_that_are_no_colours_are_refused(pixels: np.ndarray, options: dict[str, str], said: str) -> None:
    with pytest.raises(DamagedFileError, match=f"^a {said}"):
        read_rgb(_tiff(pixels, **options), name="a")
