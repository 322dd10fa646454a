"""Hosts on one machine: namespaces with names, addresses and process ids of their own, on a bridge that leads nowhere.

They share the file system, as the hosts of a lab do. A host is the tree of processes of one command.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("ip", "unshare", "hostname")


def require_hosts() -> None:
    """Skip where no hosts can be made; in CI, fail."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    reason = f"no program {', '.join(missing)}" if missing else "" if os.geteuid() == 0 else "needs root"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


class Network:
    """A bridge, and the hosts on it.

    Args:
        number: of the network, 1 to 254, which no other one has.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.bridge = f"mars{number}"
        self.address = self.address_of(1)
        self.served = f"10.77.{number}.0/24"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address_of(self, number: int) -> str:
        return f"10.77.{self.number}.{number}"

    def open(self) -> None:
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def start(self, name: str, number: int, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        """Start a host that runs a command.

        Args:
            name: of the host.
            number: of its address.
            command: ends when the host does.
            environment: of the command.
            log: gets its output.
        """
        space, link = self._space(name), self._link(name)
        _ip("netns", "add", space)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", link, "master", self.bridge, "up")
        _ip("-n", space, "addr", "add", f"{self.address_of(number)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", space, "link", "set", device, "up")
        inside = ["ip", "netns", "exec", space, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        named = [*inside, "bash", "-c", 'hostname "$0"; exec "$@"', name, *command]
        with open(log, "ab") as output:
            self._processes[name] = subprocess.Popen(
                named, env=dict(environment), stdout=output, stderr=output, start_new_session=True
            )

    def cut(self, name: str) -> None:
        """Take a host off the network; its processes go on."""
        _ip("link", "set", self._link(name), "down")

    def mend(self, name: str) -> None:
        _ip("link", "set", self._link(name), "up")

    def processes(self, name: str, word: str) -> list[psutil.Process]:
        """The processes of a host whose command has a word."""
        found = []
        for process in psutil.Process(self._processes[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word in part for part in process.cmdline()):
                    found.append(process)
        return found

    def stop(self, name: str) -> None:
        """End a host, and all that runs on it, as when its power fails."""
        process = self._processes.pop(name)
        process.kill()  # and with it, by --kill-child, the namespace's first process and all others
        process.wait()
        _ip("link", "del", self._link(name))  # which would stay for a while where only its namespace is removed
        _ip("netns", "del", self._space(name))

    def close(self) -> None:
        for name in list(self._processes):
            self.stop(name)
        _ip("link", "del", self.bridge)

    def _space(self, name: str) -> str:
        return f"{self.bridge}-{name}"

    def _link(self, name: str) -> str:
        return f"{self.bridge}{name}"


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network, of which nothing is left afterwards."""
    require_hosts()
    there = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    free = (number for number in range(1 + os.getpid() % 100, 255) if f" mars{number}:" not in there)
    opened = Network(next(free))
    opened.open()
    try:
        yield opened
    finally:
        opened.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
