"""An environment of its own for craterstats, which needs Python 3.12."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock


def python_312() -> str | None:
    """The interpreter that craterstats 3.6 needs."""
    pyenv = shutil.which("pyenv")
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip() if pyenv else "~/.pyenv"
    candidates = [shutil.which("python3.12"), *sorted((Path(root).expanduser() / "versions").glob("3.12*/bin/python"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


@pytest.fixture(scope="session")
def craterstats_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has craterstats."""
    interpreter = python_312()
    if interpreter is None:
        pytest.skip("craterstats 3.6 needs Python 3.12")
    own = tmp_path_factory.getbasetemp()
    # One for all workers: to make it takes half a minute.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "craterstats"
    complete, python = folder / "complete", folder / "bin" / "python"
    with FileLock(f"{folder}.lock"):
        if not complete.exists():
            subprocess.run([interpreter, "-m", "venv", folder], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "craterstats==3.6.11"], check=True)
            complete.touch()
    return python
