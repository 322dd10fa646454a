"""The checks of Slurm and Ray on real ones, in a network and process namespace whose end is theirs."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mars_assets_tests.doctor.bad_states import can_be_other_hosts, doctor, environment, of_check, only, report

pytestmark = pytest.mark.process
NETWORK = """
set -e
ip link set lo up
ip link add d0 type veth peer name d1
ip addr add 10.99.0.1/24 dev d0
ip link set d0 up
ip link set d1 up
"""
SLURM = """
ClusterName=trial
SlurmctldHost={host}(10.99.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
NodeName=h1 NodeAddr=10.99.0.1 CPUs=1 State=DOWN
PartitionName=main Nodes=h1 Default=YES State=UP
"""


def needs(*programs: str) -> None:
    """Skip without them; in CI their absence is a failure."""
    lacking = [name for name in programs if shutil.which(name) is None]
    if lacking or not can_be_other_hosts():
        message = f"{', '.join(lacking) or 'the right to unshare'} is missing"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def in_namespace(script: str, *command: str, **variables: str) -> subprocess.Popen[str]:
    """Start a command in a network of its own; all processes of the script end with it."""
    isolated = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.Popen(
        [*isolated, "bash", "-c", f'{NETWORK}{{ {script}\n}} >&2; "$@"', "bash", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )


def test_a_real_slurm(tmp_path: Path) -> None:
    needs("unshare", "ip", "slurmctld", "munged", "scontrol")
    for name in ("state", "spool", "lake", "munge"):
        (tmp_path / name).mkdir()
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(SLURM.format(host=socket.gethostname(), folder=tmp_path))
    look = doctor("--lake", str(tmp_path / "lake"), "doctor", "--json")
    away = report(in_namespace("true", *look, SLURM_CONF=str(configuration)))
    assert "slurmctld does not answer" in only(of_check(away, "slurm"))["what"]
    assert "munge fails" in only(of_check(away, "munge"))["what"]
    # /run is this namespace's own; munged runs as whoever runs the test.
    start = f"""
    mount -t tmpfs tmpfs /run; mkdir -m 755 /run/munge
    head -c 1024 /dev/urandom > {tmp_path}/key; chmod 400 {tmp_path}/key
    munged --force --key-file={tmp_path}/key --log-file={tmp_path}/munged.log --seed-file={tmp_path}/seed
    slurmctld -f {configuration} -L {tmp_path}/slurmctld.log
    until scontrol ping | grep UP; do sleep 0.2; done
    """
    there = report(in_namespace(start, *look, SLURM_CONF=str(configuration)))
    answers, nodes = (finding["what"] for finding in of_check(there, "slurm"))
    assert answers == f"Slurmctld(primary) at {socket.gethostname()} is UP"
    # With an asterisk once slurmctld has asked the node, which is later.
    assert nodes in ("no node takes jobs (h1 down)", "no node takes jobs (h1 down*)")
    assert only(of_check(there, "munge"))["level"] == "ok"


def test_a_real_ray_and_a_webserver_that_everybody_reaches(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    needs("unshare", "ip", "ss", str(programs / "ray"))
    options = "--head --num-cpus=1 --node-ip-address=10.99.0.1 --dashboard-host=0.0.0.0 --disable-usage-stats"
    start = f"mount -t tmpfs tmpfs /tmp; {programs}/ray start {options} --object-store-memory=100000000"
    (tmp_path / "lake").mkdir()
    look = doctor("--lake", "/run/lake", "doctor", "--json")
    serve = f"{programs}/dagster-webserver -h 0.0.0.0 -p 3999 --empty-workspace"
    start = f"""
    mount -t tmpfs tmpfs /run; mkdir /run/lake /run/home
    DAGSTER_HOME=/run/home {serve} &
    {start}
    until ss -ltn | grep 3999; do sleep 0.2; done
    """
    said = report(in_namespace(start, *look, MARS_RAY_DASHBOARD="http://10.99.0.1:8265"))
    assert "listens on 0.0.0.0 port 3999" in only(of_check(said, "webserver"))["what"]
    answers, listens = of_check(said, "dashboard")
    assert answers["level"] == "note"
    assert "which runs commands for everybody who reaches it" in answers["what"]
    assert listens["what"].startswith("Ray's dashboard listens on 0.0.0.0 port 8265")
    assert listens["level"] == "problem"
    assert only(of_check(said, "ray"))["what"] == "the head 10.99.0.1 offers 1 CPUs"
