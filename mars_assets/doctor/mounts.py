"""File systems, as the kernel's table of mounts lists them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")
_NETWORK = re.compile(r"nfs4?|cifs|smb\w*|fuse(\..+)?|lustre|beegfs\w*|gpfs|ceph|9p|virtiofs|afs|glusterfs|pvfs2")
_LOCAL_FUSE = ("fuse.fuse-overlayfs", "fuseblk")


class Mount(NamedTuple):
    """A mounted file system.

    Args:
        point: where it is mounted.
        kind: type of the file system, such as ``nfs4``.
        options: the mount's options.
    """

    point: Path
    kind: str
    options: tuple[str, ...]

    @property
    def is_network(self) -> bool:
        """Whether other hosts may have the same files."""
        return bool(_NETWORK.fullmatch(self.kind)) and self.kind not in _LOCAL_FUSE


def mount_of(path: Path, proc: Path) -> Mount | None:
    """Find the file system that a path lies on.

    Args:
        path: an existing path.
        proc: folder with the table ``mounts``, ``/proc``.

    Returns:
        None if the system has no such table.
    """
    try:
        table = (proc / "mounts").read_text(errors="surrogateescape")
    except OSError:
        return None
    mounts = [_parsed(line) for line in table.splitlines() if line.count(" ") >= 3]
    real = path.resolve()
    above = [mount for mount in mounts if real.is_relative_to(mount.point)]
    # Of several at one point the last is on top.
    return max(reversed(above), key=lambda mount: len(mount.point.parts), default=None)


def _parsed(line: str) -> Mount:
    _, point, kind, options = line.split(" ")[:4]
    return Mount(Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), point)), kind, tuple(options.split(",")))
