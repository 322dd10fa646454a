"""A check that all hosts of one Dagster instance have the same lake.

Hosts with two lakes never see each other's records there. What they share is the instance: its database has a set of
dynamic partitions, of no asset, in which every host notes its lake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mars_assets.doctor.file_system import is_usable
from mars_assets.doctor.findings import Finding, Surroundings, ok, problem
from mars_assets.doctor.hosts import own_record
from mars_assets.doctor.instance import opened_instance
from mars_assets.doctor.settings import is_deployed

NOTED = "mars_assets/lakes"
"""Name of the set."""


def same_lake(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that hosts which use this instance use this lake."""
    if not is_deployed(surroundings) or not is_usable(surroundings):
        return
    instance = opened_instance(surroundings)
    if instance is None:
        return
    own = own_record(surroundings)
    noted = _noted(instance.get_dynamic_partitions(NOTED))
    mine = _Lake(own.lake_id, 0 if own.file_system.startswith("fuse") else own.inode)
    if noted.get(own.host) != mine:
        if own.host in noted:
            instance.delete_dynamic_partition(NOTED, _key(own.host, noted[own.host]))
        instance.add_dynamic_partitions(NOTED, [_key(own.host, mine)])
    others = {host: lake for host, lake in noted.items() if host != own.host}
    different = sorted(host for host, lake in others.items() if not lake.may_be(mine))
    for host in different:
        yield problem(
            f"{host} uses this instance with another lake than {own.lake}",
            "mount the same folder on both, set MARS_LAKE to it, and run mars-assets doctor there again",
        )
    if not different:
        yield ok(f"{len(others)} other hosts use this instance, all with this lake")


class _Lake(NamedTuple):
    """The lake's random id, and the number of the file that has it.

    The number is 0 where it is not the server's.
    """

    random_id: str
    inode: int

    def may_be(self, other: _Lake) -> bool:
        return self.random_id == other.random_id and (0 in (self.inode, other.inode) or self.inode == other.inode)


def _key(host: str, lake: _Lake) -> str:
    return f"{host} {lake.random_id} {lake.inode}"


def _noted(keys: Iterable[str]) -> dict[str, _Lake]:
    parts = [key.rsplit(" ", 2) for key in keys]
    return {host: _Lake(random_id, int(inode)) for host, random_id, inode in parts}
