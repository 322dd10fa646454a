"""Checks of who can reach Ray's dashboard and Dagster's webserver.

Both run commands for everybody who does.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import requests

from mars_assets.doctor.findings import Check, Finding, Surroundings, note, ok, problem

_WEBSERVER = re.compile("dagster[-_]webserver")
_WEBSERVER_PORT, _DASHBOARD_PORT = 3000, 8265
"""The ports that both have unless others are chosen."""
_OPEN = "which runs commands for everybody who reaches it"


class Listener(NamedTuple):
    """A socket that accepts connections.

    Args:
        address: the address it accepts them at; that of all interfaces is 0.0.0.0 or ::.
        port: its port.
        command: command line of its process; empty if the process is another user's.
    """

    address: str
    port: int
    command: str

    @property
    def reach(self) -> str:
        """Who reaches it: "everybody", "network" or "host"."""
        address = ipaddress.ip_address(self.address)
        return "everybody" if address.is_unspecified else "host" if address.is_loopback else "network"


def listeners() -> list[Listener]:
    """List the sockets of this host, or of this container, that accept connections."""
    found = []
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            address = str(connection.laddr.ip).partition("%")[0]
            found.append(Listener(address, connection.laddr.port, _command(connection.pid)))
    return found


def _command(number: int | None) -> str:
    try:
        return " ".join(psutil.Process(number).cmdline()) if number else ""
    except psutil.Error:
        return ""


def webserver(surroundings: Surroundings) -> Iterator[Finding]:
    """Check at which addresses Dagster's webserver listens."""
    advice = "start it with -h 127.0.0.1, and reach it by ssh -L"
    yield from exposed("Dagster's webserver", (one for one in listeners() if is_webserver(one)), advice)


def is_webserver(one: Listener) -> bool:
    """Test whether a socket is that of Dagster's webserver, by its program.

    Another user's process does not show it; then its port is taken for it.
    """
    return bool(_WEBSERVER.search(one.command)) or (not one.command and one.port == _WEBSERVER_PORT)


def is_dashboard(one: Listener, port: int) -> bool:
    """Test whether a socket is that of Ray's dashboard; its process has others.

    Args:
        one: the socket.
        port: the dashboard's port, where its process is another user's.
    """
    of_program = "dashboard/dashboard.py" in one.command and f"--port={one.port}" in one.command.split()
    return of_program or (not one.command and one.port == port)


def dashboard(surroundings: Surroundings) -> Iterator[Finding]:
    """Check whether Ray's dashboard answers, and at which addresses it listens."""
    address = surroundings.environment.get("MARS_RAY_DASHBOARD", "")
    port = _DASHBOARD_PORT
    if address:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield problem(
                f"MARS_RAY_DASHBOARD={surroundings.concealed(address)} is no address", "set it to http://HEAD:8265"
            )
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        yield from _answers(address, parts.hostname, port, surroundings)
    yield from exposed(
        "Ray's dashboard",
        (one for one in listeners() if is_dashboard(one, port)),
        "restart the head with --dashboard-host=ADDRESS of the network between the hosts alone",
    )


def _answers(address: str, host: str, port: int, surroundings: Surroundings) -> Iterator[Finding]:
    shown = surroundings.concealed(address)
    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", timeout=5)
        version = answer.json()["ray_version"]
    except (requests.RequestException, ValueError, KeyError) as error:
        advice = "start the head (ray start --head), or correct MARS_RAY_DASHBOARD"
        yield problem(f"Ray's dashboard at {shown} does not answer ({type(error).__name__})", advice)
        return
    resolved = {str(found[4][0]) for found in socket.getaddrinfo(host, port)}
    if all(ipaddress.ip_address(found.partition("%")[0]).is_loopback for found in resolved):
        yield ok(f"Ray {version} answers at {shown}, of this host only")
    else:
        advice = "let only the hosts of the cluster and those who may use it reach that network"
        yield note(f"Ray {version} answers at {shown}, {_OPEN}", advice)


def exposed(name: str, sockets: Iterable[Listener], advice: str) -> Iterator[Finding]:
    """Say who can reach a service of this host.

    Args:
        name: name of the service.
        sockets: those at which it accepts connections.
        advice: how to let fewer reach it.
    """
    here = list(sockets)
    for one in here:
        known = "" if one.command else ", by its port, as its process is another user's,"
        at = f"{name}{known} listens on {one.address} port {one.port}"
        if one.reach == "everybody":
            yield problem(f"{at}, {_OPEN}", advice)
        elif one.reach == "network":
            yield note(f"{at}, {_OPEN}", "let only those who may use it reach that network")
        else:
            yield ok(f"{at}, of this host only")
    if not here:
        yield ok("none on this host")


CHECKS: tuple[Check, ...] = (webserver, dashboard)
