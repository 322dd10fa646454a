"""The limit of every pool of the definitions."""

from __future__ import annotations

import dagster as dg

from mars_assets.resources.compute import GPU_POOL

LIMITS = {"archive": 2}
"""What the pools hold that hold more than one, in addition to that of the GPUs."""

ON_CPUS = 100
"""Places of the pool of the GPUs where none of several hosts has one: as many as ``max_concurrent_runs`` in ``deploy``.

What such runs take is CPUs, which Ray and Slurm give out.
"""


def pool_limits(defs: dg.Definitions, gpus: int, *, several_hosts: bool = False) -> dict[str, int]:
    """Choose the limit of every pool that an asset or op is in.

    Args:
        defs: the definitions.
        gpus: number of GPUs; on one host the pool has a place without one, too.
        several_hosts: whether Ray or Slurm sends runs to hosts.
    """
    jobs = defs.get_repository_def().get_all_jobs()
    ops = [node for job in jobs for node in job.all_node_defs if isinstance(node, dg.OpDefinition)]
    limits = LIMITS | {GPU_POOL: gpus if gpus > 0 else ON_CPUS if several_hosts else 1}
    return {pool: limits.get(pool, 1) for pool in sorted({op.pool for op in ops if op.pool})}
