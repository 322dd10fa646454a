"""A Slurm, from the programs of the Debian packages, with its settings in a folder of its own."""

import contextlib
import getpass
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mars_assets_tests.cluster.runs import free_port, missing_program

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
SETTINGS = """ClusterName=test
SlurmctldHost={control}
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=30
KillWait=20
SchedulerParameters=sched_min_interval=100000
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


@dataclass(frozen=True)
class Node:
    """A node, which pretends to have a GPU.

    Args:
        name: in Slurm.
        host: name of the host.
        address: of the host.
        cpus: it has.
    """

    name: str
    host: str
    address: str
    cpus: int

    def __str__(self) -> str:
        return (
            f"NodeName={self.name} NodeHostname={self.host} NodeAddr={self.address} CPUs={self.cpus} RealMemory=8000 "
            "Gres=gpu:1 State=UNKNOWN"
        )


class SlurmCluster:
    """The daemons of a small Slurm. Its programs find it by ``SLURM_CONF``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._daemons = folder, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen([program(name), *arguments], stdout=log, stderr=log)

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
        while not node_states():
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


def program(name: str) -> str:
    """Finds one of Slurm's programs."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or missing_program(name)


def command(*arguments: str, errors: bool = False) -> str:
    """Runs one of Slurm's commands. Returns what it prints, with its errors if asked for."""
    stderr = subprocess.STDOUT if errors else subprocess.DEVNULL
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=30, check=False)
    return done.stdout.strip()


def node_states() -> list[str]:
    """Lists the state of every node; empty while the controller does not answer."""
    return command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()


@contextlib.contextmanager
def slurm_on_this_host(folder: Path) -> Iterator[SlurmCluster]:
    """Starts a Slurm whose one node is this host, and stops it again."""
    with slurm_cluster(folder, "localhost", [Node("n1", platform.node(), "127.0.0.1", cpus=2)]) as cluster:
        cluster.start("slurmd", "-D", "-N", "n1")
        end = time.monotonic() + 60
        while node_states() != ["idle"]:
            assert time.monotonic() < end, (folder / "slurmd.log").read_text()[-3000:]
            time.sleep(0.2)
        yield cluster


@contextlib.contextmanager
def slurm_cluster(folder: Path, control: str, nodes: Sequence[Node]) -> Iterator[SlurmCluster]:
    """Starts a Slurm without the daemons of its nodes, sets ``SLURM_CONF``, and stops it again.

    Args:
        folder: for its settings, keys and logs.
        control: name of this host, and in parentheses its address, if that is not what the name stands for.
        nodes: its nodes.
    """
    for name in PROGRAMS:
        program(name)
    for name in ("munge", "state", "spool", "cgroup"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    settings = SETTINGS.format(
        user=getpass.getuser(), folder=folder, control=control, ctld_port=free_port(), d_port=free_port()
    )
    (folder / "slurm.conf").write_text("\n".join([*map(str, nodes), settings]))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/zero\n")
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
        cluster.start_controller()
        yield cluster
    finally:
        cluster.stop_all()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
