"""Class names as people write them, and what becomes of those that nobody knows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.labels.build import build_labelled_crops, update_labelled_crops
from mars_assets.labels.checks import unknown_classes, unusable_images
from mars_assets.labels.class_names import ClassNames, how_to_state, read_class_names
from mars_assets.labels.exports import read_export
from mars_assets.labels.table import current_label_version
from mars_assets.lake import Lake
from mars_assets_tests.labels.conftest import coco, image_bytes

Write = Callable[[str, dict[str, bytes | str]], Path]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        *((name, "crater") for name in ("crater", " CRATERS\t", "Crater\u00a0", "Impact_Crater", "impact-craters")),
        *((name, "crater") for name in ("Cratère", "crate\u0301r", "КРАТЕР", "ｃｒａｔｅｒ", "クレーター", "撞击坑")),
        *((name, "no_crater") for name in ("NoCrater", "no crater", "not-a-crater", "Non_Craters", "without crater")),
        *((name, "no_crater") for name in ("no impact crater", "Background ", "none", "No")),
        *((name, None) for name in ("crater-rim", "0", "object", "", " ", "craterlet", "no rock", "secondary crater")),
        *((name, "crater") for name in ("[Crater]", "'crater'", "crater.", "impact--crater", "__crater__")),
        *((name, None) for name in ("crater?", "!crater", "Crater+", "crater-", "-crater", "~ crater", "no crater？")),
        *((name, None) for name in ("\N{NOT SIGN}crater", "≠crater", "?", "-", "\N{NEW MOON SYMBOL}")),
    ],
)
def test_names_are_compared_by_what_they_say(name: str, meaning: str | None) -> None:
    assert ClassNames().meaning(name) == meaning


def test_what_the_user_states_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "class_names.csv"
    assert read_class_names(path).key == []
    text = "Project;Class;Meaning\r\nMars Craters;Crater Rim;crater\r\n;crater rim;other\r\n; 0 ;no_crater\r\n;;\r\n"
    path.write_text("\ufeff" + text)
    names = read_class_names(path)
    assert names.of("mars-craters").meaning("crater-rim") == "crater"
    assert names.of("another").meaning("CRATER RIM") == "other"
    assert names.of("another").meaning("0") == "no_crater"
    path.write_text("project,class,meaning\n,crater,other\n")
    assert read_class_names(path).meaning("crater") == "other"


@pytest.mark.parametrize("name", ["-", "?", "", " ", "\N{NEW MOON SYMBOL}", "crater?", "cra\u200bter", "a;b, c"])
def test_what_is_said_to_be_stated_can_be(tmp_path: Path, name: str) -> None:
    path = tmp_path / "class_names.csv"
    line = how_to_state(path, "mars-craters", name, 3).rpartition("for example ")[2]
    path.write_text(f"project,class,meaning\n{line}\n", encoding="utf-8")
    names = read_class_names(path)
    assert names.of("mars-craters").meaning(name) == "crater"
    assert names.of("another").meaning(name) is None
    assert names.of("mars-craters").meaning("boulder") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,meaning\nx,crater\n", "the first line must be project,class,meaning"),
        ("", "the first line must be"),
        ("project,class,meaning\n,x,kraater\n,y,other\n", "1 bad rows.*\nline 2: ,x,kraater"),
        ("project,class,meaning\n,,crater\n", "line 2"),
        ("project,class,meaning\n,x\n", "line 2"),
        ("project,class,meaning\n,x,crater\n,X ,other\n", "line 3: 'X' already means crater"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "class_names.csv").write_text(text)
    with pytest.raises(MarsError, match=message):
        read_class_names(tmp_path / "class_names.csv")


def circle(x: float, y: float, radius: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).ravel().round(3).tolist()


def two_classes(name: str) -> dict[str, bytes | str]:
    """Four images of each of two splits: a crater, one of the other class, one of both, and one of nothing."""
    entries: dict[str, bytes | str] = {}
    for number, split in enumerate(("train", "valid")):
        files = [f"{split}{kind}.jpg" for kind in ("crater", "other", "both", "nothing")]
        entries |= {f"{split}/{file}": image_bytes(10 * number + place) for place, file in enumerate(files)}
        images = [{"id": n, "file_name": file, "height": 48, "width": 48} for n, file in enumerate(files)]
        marks = [(0, 0, 20.0), (1, 1, 20.0), (2, 0, 12.0), (2, 1, 34.0)]
        annotations = [
            {"id": n, "image_id": image, "category_id": category, "segmentation": [circle(at, at, 8.0)]}
            for n, (image, category, at) in enumerate(marks)
        ]
        categories = [{"id": 0, "name": "crater"}, {"id": 1, "name": name}]
        entries[f"{split}/_annotations.coco.json"] = coco(images, annotations, categories=categories)
    return entries


def test_outlines_of_an_unknown_class_make_no_negative(lake: Lake, write_zip: Write) -> None:
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("Mars Craters.v1i.coco.zip", two_classes("fresh, impact")), lake.inbox)
    table, report = build_labelled_crops(lake)
    assert sorted(table["original"]) == ["traincrater", "trainnothing", "validcrater", "validnothing"]
    assert report.unknown_classes == [{"project": "mars-craters", "class": "fresh, impact", "images": 4}]
    (problem,), _ = unknown_classes(lake)
    assert "4 images with the class 'fresh, impact' are left out" in problem
    assert problem.endswith('for example mars-craters,"fresh, impact",crater')
    before = current_label_version(lake)

    for meaning, counts in (("crater", [1, 1, 2, 0]), ("other", [1, 0, 1, 0]), ("no_crater", [1, 0, 1, 0])):
        line = problem.rpartition("for example ")[2].removesuffix("crater") + meaning
        lake.class_names_csv.write_text(f"project,class,meaning\n{line}\n")
        table, report = update_labelled_crops(lake)
        found = table[table["original"].str.startswith("train")].set_index("original")["n_craters"]
        assert [found[f"train{kind}"] for kind in ("crater", "other", "both", "nothing")] == counts
        assert unknown_classes(lake)[0] == []
        assert current_label_version(lake) != before
        before = current_label_version(lake)


def _yolo(name: str) -> dict[str, bytes | str]:
    def line(number: int) -> str:
        return " ".join([str(number), *(f"{value / 48:.6f}" for value in circle(20, 20, 8))])

    kinds = {"crater": line(0), "other": line(1), "both": f"{line(0)}\n{line(1)}", "nothing": ""}
    images = {f"train/images/{kind}.jpg": image_bytes(n) for n, kind in enumerate(kinds)}
    labels = {f"train/labels/{kind}.txt": text for kind, text in kinds.items()}
    return {"data.yaml": f"nc: 2\nnames: ['crater', {json.dumps(name)}]\n", **images, **labels}


def _masks(name: str) -> dict[str, bytes | str]:
    from mars_assets_tests.labels.test_formats import _png

    kinds = {"crater": [1], "other": [2], "both": [1, 2], "nothing": []}
    entries: dict[str, bytes | str] = {
        "train/_classes.csv": f'Pixel Value, Class\n0, background\n1, crater\n2,"{name}"\n'
    }
    for number, (kind, values) in enumerate(kinds.items()):
        mask = np.zeros((48, 48))
        for value in values:
            mask[10 * value : 10 * value + 6, 10:16] = value
        entries |= {f"train/{kind}.jpg": image_bytes(number), f"train/{kind}_mask.png": _png(mask)}
    return entries


def _table(name: str) -> dict[str, bytes | str]:
    rows = {"crater": "1,0", "other": "0,1", "both": "1,1", "nothing": "0,0"}
    images = {f"train/{kind}.jpg": image_bytes(number) for number, kind in enumerate(rows)}
    text = "".join(f"{kind}.jpg,{values}\n" for kind, values in rows.items())
    return images | {"train/_classes.csv": f'filename,crater,"{name}"\n{text}'}


@pytest.mark.parametrize("entries", [two_classes, _yolo, _masks], ids=lambda maker: maker.__name__)
@pytest.mark.parametrize("name", ["object", "0", "crater-rim"])
def test_every_format_of_outlines_leaves_out_what_is_unknown(
    write_zip: Write, entries: Callable[[str], dict[str, bytes | str]], name: str
) -> None:
    path = write_zip("a.v1.zip", entries(name))
    export = read_export(path)
    read = {image.original.removeprefix("train"): image for image in export.images if image.split == "train"}
    assert sorted(read) == ["crater", "nothing"]
    assert export.unknown[name] == 2 * (2 if entries is two_classes else 1)
    assert not any("without a label" in warning for warning in export.warnings)
    stated = ClassNames({("", name.replace("-", " ")): "crater"})
    read = {image.original.removeprefix("train"): image for image in read_export(path, stated).images}
    assert [len(read[kind].outlines or ()) for kind in ("crater", "other", "nothing")] == [1, 1, 0]


@pytest.mark.parametrize("name", ["object", "0", "crater-rim"])
def test_a_table_of_classes_leaves_out_what_is_unknown(write_zip: Write, name: str) -> None:
    path = write_zip("a.v1.zip", _table(name))
    export = read_export(path)
    assert {image.original: image.label for image in export.images} == {"crater": "crater", "nothing": "no_crater"}
    assert export.unknown == {name: 2}
    plain = name.replace("-", " ")
    for meaning, labels in (
        ("crater", {"crater": "crater", "other": "crater", "both": "crater", "nothing": "no_crater"}),
        ("no_crater", {"crater": "crater", "other": "no_crater"}),
        ("other", {"crater": "crater", "other": "no_crater", "both": "crater", "nothing": "no_crater"}),
    ):
        images = read_export(path, ClassNames({("", plain): meaning})).images
        assert {image.original: image.label for image in images} == labels


def test_a_folder_of_an_unknown_class_is_named(lake: Lake, write_zip: Write) -> None:
    entries: dict[str, bytes | str] = {}
    for number, split in enumerate(("train", "valid")):
        entries[f"{split}/Impact Crater /a{number}.jpg"] = image_bytes(number)
        entries[f"{split}/plains/b{number}.jpg"] = image_bytes(number + 5)
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("tiles.v1.folder.zip", entries), lake.inbox)
    table, report = build_labelled_crops(lake)
    assert set(table["label"]) == {"crater"}
    assert report.unknown_classes == [{"project": "tiles", "class": "plains", "images": 2}]
    lake.class_names_csv.write_text("project,class,meaning\ntiles,Plains,no_crater\n")
    table, _ = update_labelled_crops(lake)
    assert sorted(table["label"]) == ["crater", "crater", "no_crater", "no_crater"]


def test_an_export_of_unknown_classes_alone_stays_in_the_inbox(lake: Lake, write_zip: Write) -> None:
    lake.inbox.mkdir(parents=True)
    entries = {
        f"{split}/depression/{split}.jpg": image_bytes(number) for number, split in enumerate(("train", "valid"))
    }
    path = lake.inbox / "p.v1.folder.zip"
    shutil.move(write_zip(path.name, entries), path)
    with pytest.raises(MarsError, match="for example p,depression,crater"):
        build_labelled_crops(lake)
    assert path.exists()
    lake.class_names_csv.write_text("project,class,meaning\np,depression,crater\n")
    assert list(build_labelled_crops(lake)[0]["label"]) == ["crater", "crater"]


def test_an_annotation_that_cannot_be_used_costs_its_image_alone(lake: Lake, write_zip: Write) -> None:
    entries = two_classes("crater")
    content = json.loads(str(entries["train/_annotations.coco.json"]))
    content["annotations"][1]["segmentation"] = [[1.0, 2.0, 3.0, 4.0]]
    content["annotations"].append({"id": 9, "image_id": 3, "category_id": 7, "segmentation": []})
    # Numbers as other tools write them, and a ring without its list.
    content["annotations"][0] |= {"image_id": "0", "category_id": 0.0, "segmentation": circle(20, 20, 8)}
    content["images"][2] |= {"id": "2", "height": 48.0, "width": "48"}
    entries["train/_annotations.coco.json"] = json.dumps(content)
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("a.v1.coco.zip", entries), lake.inbox)
    table, _ = build_labelled_crops(lake)
    found = table[table["split"] == "train"].set_index("original")["n_craters"]
    assert found.to_dict() == {"traincrater": 1, "trainboth": 2}
    problems, _ = unusable_images(lake)
    assert problems == [
        "left out, a: train/trainother.jpg: annotation 1 has an outline of 4 numbers",
        "left out, a: train/trainnothing.jpg: annotation 9 has the unknown category 7",
    ]


def test_the_same_outline_twice_is_one_crater(write_zip: Write) -> None:
    entries = two_classes("crater")
    content = json.loads(str(entries["train/_annotations.coco.json"]))
    ring = circle(20.0, 20.0, 8.0)
    again = [*ring[6:], *ring[:6]]  # from another vertex
    content["annotations"].append({"id": 9, "image_id": 0, "category_id": 0, "segmentation": [again]})
    entries["train/_annotations.coco.json"] = json.dumps(content)
    export = read_export(write_zip("a.v1.coco.zip", entries))
    assert len(export.images[0].outlines or ()) == 1
    assert "train/traincrater.jpg: 1 outlines occur twice and count once" in export.warnings


def test_rectangles_of_oriented_boxes_are_no_outlines(write_zip: Write) -> None:
    def entries(corners: np.ndarray) -> dict[str, bytes | str]:
        words = " ".join(f"{value:.6f}" for value in (corners / [96, 48]).ravel())
        image = image_bytes(0)
        return {"data.yaml": "names: [crater]", "train/images/a.jpg": image, "train/labels/a.txt": f"0 {words}"}

    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    box = np.array([[-8, -5], [8, -5], [8, 5], [-8, 5]]) @ turn + [24, 24]
    # The picture is square, and coordinates are relative to its sides.
    words = entries(box * [2, 1])
    with pytest.raises(
        DamagedFileError, match="its 1 outlines have four corners, as boxes and oriented boxes have: export"
    ):
        read_export(write_zip("obb.zip", words))
    stretched = entries(box * [2, 0.6])
    with pytest.raises(DamagedFileError, match="its 1 outlines have four corners"):
        read_export(write_zip("stretched.zip", stretched))
    kite = np.array([[16, 24], [24, 19], [34, 24], [24, 29]])
    assert read_export(write_zip("kite.zip", entries(kite * [2, 1]))).images[0].outlines


def test_a_box_among_outlines_costs_its_image(write_zip: Write) -> None:
    """A rectangle of few pixels may be traced around a mask."""
    ring = [5.0, 5.0, 9.0, 4.0, 12.0, 8.0, 7.0, 11.0]
    shapes = {"a": [ring], "b": [ring, [4, 4, 20, 4, 20, 20, 4, 20, 4, 4]], "c": [[4, 4, 8, 4, 8, 8, 4, 8]], "d": []}
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 48, "width": 48} for n in shapes]
    annotations = [
        {"id": k, "image_id": name, "category_id": 1, "segmentation": [shape]}
        for name, drawn in shapes.items()
        for k, shape in enumerate(drawn)
    ]
    entries: dict[str, bytes | str] = {f"train/{name}.jpg": image_bytes(k) for k, name in enumerate(shapes)}
    export = read_export(write_zip("c.zip", entries | {"train/_annotations.coco.json": coco(images, annotations)}))
    assert [image.original for image in export.images] == ["a", "c", "d"]
    assert export.left_out == ("train/b.jpg: 1 of its 2 outlines are rectangles, as of boxes: outline these craters",)
    moved = [(np.array(shapes["c"][0]) + n).tolist() for n in range(5)]
    for count in (4, 5):
        boxes = [{"id": n, "image_id": "a", "category_id": 1, "segmentation": [moved[n]]} for n in range(count)]
        path = write_zip("c.zip", entries | {"train/_annotations.coco.json": coco(images, boxes)})
        if count < 5:
            said = ("its 4 outlines are rectangles, as boxes are: look whether they are outlines",)
            assert (len(read_export(path).images), read_export(path).warnings) == (4, said)
        else:
            with pytest.raises(DamagedFileError, match="its 5 outlines have four corners"):
                read_export(path)


@pytest.mark.parametrize(
    ("boxes", "others", "is_refused"), [(95, 5, True), (15, 5, False), (0, 20, True), (0, 19, False)]
)
def test_boxes_are_told_from_outlines_by_their_number(
    write_zip: Write, boxes: int, others: int, is_refused: bool
) -> None:
    """Some boxes are cut by the border; of quadrilaterals, many are no accident. Triangles are those that are cut."""
    rng = np.random.default_rng(0)
    shapes = [
        (rng.uniform(0, 20, 2) + rng.uniform(3, 7) * np.array([[0, 0], [1, 0.2], [0.8, 1], [0, 0.9]]))
        for _ in range(others)
    ]
    shapes = [shape[:3] if boxes else shape for shape in shapes]
    shapes += [
        (rng.uniform(0, 20, 2) + rng.uniform(4, 9) * np.array([[0, 0], [1, 0.2], [1.1, 1], [0.1, 0.8]]))
        for _ in range(boxes)
    ]
    images = [{"id": 0, "file_name": "a.jpg", "height": 48, "width": 48}]
    drawn = [
        {"id": n, "image_id": 0, "category_id": 1, "segmentation": [s.ravel().tolist()]} for n, s in enumerate(shapes)
    ]
    entries: dict[str, bytes | str] = {
        "train/a.jpg": image_bytes(0),
        "train/_annotations.coco.json": coco(images, drawn),
    }
    path = write_zip("c.zip", entries)
    if is_refused:
        with pytest.raises(DamagedFileError, match=f"its {boxes + others} outlines have four corners"):
            read_export(path)
    elif boxes:
        with pytest.raises(DamagedFileError, match="of its 20 outlines are rectangles"):
            read_export(path)
    else:
        assert len(read_export(path).images[0].outlines or ()) == others


def test_the_outline_of_an_image_within_a_crater_is_no_box(write_zip: Write) -> None:
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 48} for n in range(3)]
    shapes = [[0, 0, 48, 0, 48, 40, 0, 40], [0, 0, 47, 0, 47, 39, 0, 39, 0, 0], [0, 0, 48, 0, 48, 20, 0, 20]]
    drawn = [{"id": n, "image_id": n, "category_id": 1, "segmentation": [shape]} for n, shape in enumerate(shapes)]
    entries: dict[str, bytes | str] = {f"train/{n}.jpg": image_bytes(n) for n in range(3)}
    export = read_export(write_zip("c.zip", entries | {"train/_annotations.coco.json": coco(images, drawn)}))
    assert [image.original for image in export.images] == ["0", "1"]
    assert export.left_out == ("train/2.jpg: 1 of its 1 outlines are rectangles, as of boxes: outline these craters",)


def test_a_bad_picture_does_not_hide_that_classes_are_unknown(lake: Lake, write_zip: Write) -> None:
    entries: dict[str, bytes | str] = {"train/bump/a.jpg": image_bytes(0), "train/bump/b.heic": b"x"}
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("a.v1.zip", entries | {"more/c.jpg": image_bytes(1)}), lake.inbox)
    with pytest.raises(MarsError, match="2 images with the class 'bump' are left out"):
        build_labelled_crops(lake)
    assert [path.name for path in lake.inbox.iterdir()] == ["a.v1.zip"]


def test_images_that_share_a_label_file_are_named(write_zip: Write) -> None:
    entries = _yolo("crater")
    entries["train/images/both.png"] = image_bytes(9, suffix="png")
    with pytest.raises(DamagedFileError, match=r"both\.jpg and train/images/both\.png share the label file"):
        read_export(write_zip("a.zip", entries))


@pytest.mark.parametrize("names", ["[crater, no]", "{'0': crater, 1: off}", "{0: ' Crater', '1': 5}"])
def test_class_lists_that_yaml_takes_for_other_values(write_zip: Write, names: str) -> None:
    entries = _yolo("x") | {"data.yaml": f"names: {names}"}
    stated = ClassNames({("", "off"): "other", ("", "5"): "other"})
    assert len(read_export(write_zip("a.zip", entries), stated).images) == 4


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
def test_tables_as_spreadsheets_write_them(write_zip: Write, end: str, separator: str) -> None:
    entries = _table("no crater")
    rows = [line.split(",") for line in str(entries["train/_classes.csv"]).replace('"', "").splitlines()]
    rows = [rows[0], [""] * 3, *rows[1:], [" "] * 3, []]
    entries["train/_classes.csv"] = end.join(separator.join(row) for row in rows)
    export = read_export(write_zip("a.zip", entries))
    assert {image.original: image.label for image in export.images} == {"crater": "crater", "other": "no_crater"}


def _without_outlines(entries: dict[str, bytes | str]) -> dict[str, bytes | str]:
    return {name: "" if name.endswith(".txt") else content for name, content in entries.items()}


def test_where_no_class_is_known_no_image_is_a_negative(write_zip: Write) -> None:
    coco_export = two_classes("x")
    for split in ("train", "valid"):
        content = json.loads(str(coco_export[f"{split}/_annotations.coco.json"]))
        root = {"id": 0, "name": "mars", "supercategory": "none"}
        content |= {"annotations": [], "categories": [root, {"id": 1, "name": "object", "supercategory": "mars"}]}
        coco_export[f"{split}/_annotations.coco.json"] = json.dumps(content)
    yolo = _without_outlines(_yolo("x")) | {"data.yaml": "names: [object]"}
    for name, entries, images in (("c.zip", coco_export, 8), ("y.zip", yolo, 4)):
        export = read_export(write_zip(name, entries))
        assert (export.images, export.unknown) == ((), {"object": images})
        stated = read_export(write_zip(name, entries), ClassNames({("", "object"): "crater"}))
        assert [image.outlines for image in stated.images] == [()] * images
