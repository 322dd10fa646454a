"""A Slurm of one node, from the programs of the Debian packages, with its settings in a folder of its own."""

import contextlib
import getpass
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from mars_assets_tests.cluster.runs import free_port, missing_program

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
SETTINGS = """ClusterName=test
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=20
SchedulerParameters=sched_min_interval=100000
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=n1 MaxTime=INFINITE State=UP PriorityTier=10
"""


class SlurmCluster:
    """The daemons of a small Slurm. Its programs find it by ``SLURM_CONF``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._daemons = folder, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen([_program(name), *arguments], stdout=log, stderr=log)

    def stop(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_controller(self) -> None:
        self.start("slurmctld", "-D")
        end = time.monotonic() + 60
        while not command("sinfo", "--noheader", "--format=%T").startswith(("idle", "mixed", "allocated")):
            assert time.monotonic() < end, (self._folder / "slurmctld.log").read_text()[-3000:]
            time.sleep(0.2)

    def stop_all(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            command("scancel", "--user", getpass.getuser())
            end = time.monotonic() + 30
            while command("squeue", "--noheader") and time.monotonic() < end:
                time.sleep(0.2)
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self._daemons:
                self.stop(name)


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or missing_program(name)


def command(*arguments: str) -> str:
    """Runs one of Slurm's commands."""
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Starts a Slurm, sets ``SLURM_CONF``, and stops it again."""
    for name in PROGRAMS:
        _program(name)
    for name in ("munge", "state", "spool", "cgroup"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    settings = SETTINGS.format(
        user=getpass.getuser(), folder=folder, host=platform.node(), ctld_port=free_port(), d_port=free_port()
    )
    (folder / "slurm.conf").write_text(settings)
    (folder / "gres.conf").write_text("NodeName=n1 Name=gpu File=/dev/zero\n")
    (folder / "cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={folder}/cgroup\n"
    )
    cluster = SlurmCluster(folder)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    munge = folder / "munge"
    try:
        cluster.start(
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        )
        while not (munge / "socket").exists():
            assert cluster._daemons["munged"].poll() is None, (folder / "munged.log").read_text()
            time.sleep(0.05)
        cluster.start("slurmd", "-D", "-N", "n1")
        cluster.start_controller()
        yield cluster
    finally:
        cluster.stop_all()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
