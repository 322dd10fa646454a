"""The benchmarks as modules, for tests of what they compute."""

import importlib
import sys
from types import ModuleType

from mars_assets_tests.shell import PROJECT


def benchmark(name: str) -> ModuleType:
    """A script of ``benchmarks/``, which import each other by name."""
    folder = str(PROJECT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)
