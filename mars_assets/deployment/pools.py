"""The limit of every pool of the definitions."""

from __future__ import annotations

import dagster as dg

from mars_assets.resources.compute import GPU_POOL

LIMITS = {"archive": 2}
"""What the pools hold that hold more than one, in addition to that of the GPUs."""


def pool_limits(defs: dg.Definitions, gpus: int) -> dict[str, int]:
    """Choose the limit of every pool that an asset or op is in.

    Args:
        defs: the definitions.
        gpus: number of GPUs; the pool has a place without one, too.
    """
    jobs = defs.get_repository_def().get_all_jobs()
    ops = [node for job in jobs for node in job.all_node_defs if isinstance(node, dg.OpDefinition)]
    limits = LIMITS | {GPU_POOL: max(gpus, 1)}
    return {pool: limits.get(pool, 1) for pool in sorted({op.pool for op in ops if op.pool})}
