"""What runs ask for, for every step of the definitions."""

import pytest

from mars_assets.cluster.needs import OF_OTHERS, OF_POOLS, OF_STEPS, Host, Needs, Step, needs_of_run, needs_of_step
from mars_assets.definitions import defs
from mars_assets.resources.archive import ARCHIVE_POOL
from mars_assets.resources.compute import GPU_POOL

LARGE = Host(cpus=64, memory_gb=512, hours=24 * 30)


def steps() -> list[Step]:
    """Every step of every job: assets, checks and ops."""
    nodes = {
        name: node.definition.pools for job in defs.resolve_all_job_defs() for name, node in job.graph.node_dict.items()
    }
    return [Step(name, next(iter(pools), None)) for name, pools in nodes.items()]


CHECKS = {f"{key.asset_key.to_user_string()}_{key.name}" for key in defs.resolve_asset_graph().asset_check_keys}


def test_every_asset_and_every_job_without_assets_has_needs() -> None:
    found = {step.name: step for step in steps()}
    assert {"fetch_export", "cls_model", "roboflow_exports", *CHECKS} <= found.keys()
    without = [
        step.name
        for step in found.values()
        if step.name not in OF_STEPS and step.pool not in OF_POOLS and step.name not in CHECKS
    ]
    assert without == [], "add these to OF_STEPS, or to a pool of OF_POOLS"
    assert OF_STEPS.keys() <= found.keys(), "needs of steps that no longer exist"


def test_what_is_in_the_pool_of_gpus_takes_one_and_nothing_else_does() -> None:
    for step in steps():
        assert needs_of_step(step).gpu == (step.pool == GPU_POOL), step


def test_a_run_needs_the_most_of_its_steps_and_the_time_of_all() -> None:
    train, download = Step("cls_model", GPU_POOL), Step("hirise_images", ARCHIVE_POOL)
    together = needs_of_run([train, download], LARGE)
    alone = needs_of_step(train), needs_of_step(download)
    assert together.cpus == max(needs.cpus for needs in alone)
    assert together.memory_gb == max(needs.memory_gb for needs in alone)
    assert together.gpu
    assert together.hours > sum(needs.hours for needs in alone)
    assert not needs_of_run([download], LARGE).gpu


def test_time_grows_with_the_partitions() -> None:
    one, ten = (needs_of_run([Step("crops", None, count)], LARGE) for count in (1, 10))
    assert ten.hours - one.hours == pytest.approx(9 * OF_STEPS["crops"].hours)
    assert (ten.cpus, ten.memory_gb) == (one.cpus, one.memory_gb)


def test_nobody_asks_for_more_than_a_host_has() -> None:
    small = Host(cpus=2, memory_gb=3, hours=1)
    assert needs_of_run([Step("seg_experiments", GPU_POOL)], small) == Needs(2, 3, 1, gpu=True)


def test_a_run_of_nothing_asks_for_little() -> None:
    assert needs_of_run([], LARGE).cpus == OF_OTHERS.cpus
