"""Checks of installed packages."""

from pathlib import Path

from packaging.requirements import Requirement

from mars_assets.doctor.packages import CHECKS, as_tested, installed_once, within_bounds
from mars_assets_tests.doctor.bad_states import only, surroundings


def test_what_is_installed_is_looked_at(tmp_path: Path) -> None:
    findings = [only(check(surroundings(tmp_path))) for check in CHECKS]
    assert "packages are within the bounds" in findings[0].what
    assert findings[0].level == "ok"


def test_packages_out_of_bounds() -> None:
    wanted = [
        Requirement(text)
        for text in ("dagster<1.14,>=1.13", "Numpy>=2", "gone", "win; sys_platform == 'win32'", "dev; extra == 'dev'")
    ]
    finding = only(within_bounds(wanted, {"dagster": {"1.14.0"}, "numpy": {"2.1.0"}}))
    assert finding.level == "problem"
    assert finding.what == "dagster 1.14.0 is not <1.14,>=1.13; gone is missing"
    assert only(within_bounds(wanted[:2], {"dagster": {"1.13.2"}, "numpy": {"3.0rc1"}})).level == "ok"


def test_packages_of_other_versions_than_tested() -> None:
    text = "# torch==1.0\ntorch==2.14.1\nnumpy==2.4.6\nray==2.60.0\n"
    assert only(as_tested(text, {"torch": {"2.14.1+cu130"}, "numpy": {"2.4.6"}})).what.startswith("2 packages")
    finding = only(as_tested(text, {"torch": {"2.6.0"}, "numpy": {"2.4.6"}}))
    assert finding.level == "note"
    assert "torch 2.6.0 (2.14.1)" in finding.what


def test_packages_that_are_installed_twice() -> None:
    once = {"opencv-python": {"5.0"}, "opencv-python-headless": {"5.0"}}
    assert only(installed_once(once)).level == "ok", "as make .venv leaves them"
    twice = only(installed_once({"numpy": {"2.0", "2.1"}}))
    assert "several versions are installed: numpy (2.0, 2.1)" in twice.what
    overwritten = only(installed_once({"opencv-python": {"4.11"}, "opencv-python-headless": {"5.0"}}))
    assert "builds of OpenCV overwrite each other" in overwritten.what
