"""What must hold of cut crops before anything is labelled or trained on them."""

from __future__ import annotations

from mars_assets.imagery.crops import read_crops
from mars_assets.lake import Lake


def crop_problems(lake: Lake) -> tuple[list[str], int]:
    """What is wrong with the crops of all observations, and how many crops there are."""
    from PIL import Image, UnidentifiedImageError

    problems, count = [], 0
    for folder in sorted(path.parent for path in lake.all_crops.glob("*/crops.parquet")):
        manifest = read_crops(folder)
        for row in manifest[manifest["kept"]].itertuples():
            count += 1
            try:
                with Image.open(folder / row.file) as image:
                    if image.mode != "RGB" or image.size != (row.width, row.height):
                        problems.append(
                            f"{row.file}: {image.mode} of {image.size}, not RGB of {row.width} x {row.height}"
                        )
            except (FileNotFoundError, UnidentifiedImageError) as error:
                problems.append(f"{row.file} cannot be opened: {error}")
    return problems, count
