"""What importing the package does to the process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mars_assets


@pytest.mark.process
def test_warnings_about_what_is_meant_are_not_shown_and_others_are(tmp_path: Path) -> None:
    program = f"""
import sys
import mars_assets
heavy = {{"torch", "rasterio", "PIL", "pandas", "dagster"}} & set(sys.modules)
assert not heavy, heavy
import warnings
import numpy as np
from pathlib import Path
from PIL import Image
from mars_assets.images import read_rgb
from mars_assets.tensors.geotiff import read_chip, write_chip
folder = Path({str(tmp_path)!r})
write_chip(folder / "a.tif", np.zeros((1, 8, 8), np.float32), ["red"])
read_chip(folder / "a.tif", ["red"])
Image.new("RGB", (20, 20)).save(folder / "a.png")
Image.MAX_IMAGE_PIXELS = 300
read_rgb(folder / "a.png")
import mars_assets.definitions
warnings.warn("something else")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [line for line in run.stderr.splitlines() if "Warning" in line] == [
        "<string>:19: UserWarning: something else"
    ]


def test_docstrings_begin_with_a_short_summary() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    too_long = []
    for path in Path(mars_assets.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            summary = (ast.get_docstring(node) or "").split("\n")[0] if isinstance(node, documented) else ""
            if len(summary) >= 80:
                too_long.append(f"{path}: {summary}")
    assert not too_long
