"""The command as a whole, and its page in the manual."""

import re
from pathlib import Path

import pytest

from mars_assets.cli import main
from mars_assets.doctor.examination import GROUPS
from mars_assets.doctor.findings import title_of
from mars_assets_tests.shell import PROJECT

pytestmark = pytest.mark.process
PAGE = (PROJECT / "docs/how-to/doctor.md").read_text()


def test_the_report_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MARS_RAY_DASHBOARD", raising=False)
    lake = tmp_path / "lake"
    assert main(["--lake", str(lake), "init"]) == 0
    capsys.readouterr()
    status = main(["--lake", str(lake), "doctor"])
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line in GROUPS] == list(GROUPS)
    assert status == ("\n  problem " in said)
    assert "failed (" not in said, "no check breaks"
    assert main(["--lake", str(tmp_path / "nowhere"), "doctor"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("wait", ["-1", "inf", "soon"])
def test_no_duration(wait: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--wait", wait])
    assert f"invalid seconds value: '{wait}'" in capsys.readouterr().err


def test_the_manual_describes_every_check() -> None:
    parts = dict(zip(*[iter(re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True))
    for group, checks in GROUPS.items():
        cells = re.findall(r"^\| (`.+?`) \|", parts[group], re.MULTILINE)
        assert [name for cell in cells for name in re.findall("`(.+?)`", cell)] == [title_of(check) for check in checks]
