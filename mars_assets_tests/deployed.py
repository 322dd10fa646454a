"""A small lake of the sample whose history is in a real Postgres, set up as a lab does: ``mars-assets deploy``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mars_assets.lake import Lake
from mars_assets.sample.make import Plan, make_sample
from mars_assets.sample.server import serve
from mars_assets_tests.postgres import Database
from mars_assets_tests.shell import PROJECT, clean_environment

SMALL = Plan(train=1, valid=1, test=1, unlabelled=0, height=1664, width=1664)
LABELS = "labelled_crops,reflectance,imputed_post_norm"


class Deployed:
    """The lake, the instance, and the commands of somebody who uses them.

    Args:
        folder: of both.
        database: Dagster's.
        archive: address of the sample's archive.
    """

    def __init__(self, folder: Path, database: Database, archive: str = "") -> None:
        self.folder, self.database = folder, database
        self.lake = Lake.at(folder / "lake")
        self.home = folder / "home"
        self.environment = {
            **clean_environment(),
            **database.variables,
            "DAGSTER_HOME": str(self.home),
            "MARS_LAKE": str(self.lake.root),
            "MARS_CONTACT": "tests",
            "MARS_HIRISE_ARCHIVE": archive,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        }

    def start(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command of the environment that the tests run in."""
        if program == "mars-assets":
            command = [sys.executable, "-m", "mars_assets.cli", *arguments]
        else:
            command = [str(Path(sys.executable).with_name(program)), *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(program, *arguments, **variables)
        try:
            output, _ = process.communicate(timeout=400)
        finally:
            process.kill()
        return process.returncode, output

    def deploy(self, *options: str) -> str:
        code, output = self.run("mars-assets", "deploy", "workstation", *options)
        assert code == 0, output
        return output

    def materialize(self, select: str, **config: Any) -> str:
        code, output = self.run("dagster", *materialize(select, **config))
        assert code == 0, output[-4000:]
        return output


def materialize(select: str, **config: Any) -> list[str]:
    """The words of ``dagster asset materialize`` for the project, with configurations by asset."""
    words = ["asset", "materialize", "--select", select, "-m", "mars_assets.definitions"]
    if config:
        words += ["--config-json", json.dumps({"ops": {name: {"config": own} for name, own in config.items()}})]
    return words


@contextmanager
def deployed_sample(folder: Path, database: Database) -> Iterator[Deployed]:
    """The sample's labels and weights in a lake of its own, with the archive, after ``mars-assets deploy``."""
    make_sample(Lake.at(folder / "lake"), plan=SMALL)
    with serve(Lake.at(folder / "lake").sample) as archive:
        deployed = Deployed(folder, database, archive)
        deployed.deploy()
        deployed.materialize("prithvi_weights", prithvi_weights={"source": "sample"})
        yield deployed
