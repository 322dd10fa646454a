"""Every pool of the definitions has a limit of its own."""

import dagster as dg
import pytest

from mars_assets.definitions import defs
from mars_assets.deployment.pools import ON_CPUS, pool_limits


def test_every_pool_has_a_limit() -> None:
    graph = defs.resolve_asset_graph()
    of_assets = {pool for key in graph.get_all_asset_keys() for pool in graph.get(key).pools or ()}
    of_ops = {defs.resolve_job_def("fetch_labels").graph.node_defs[0].pool}
    assert {"gpu", "lake"} <= of_assets
    assert of_ops == {"roboflow"}
    assert set(pool_limits(defs, gpus=0)) == of_assets | of_ops


@pytest.mark.parametrize(
    ("gpus", "several_hosts", "places"),
    [(0, False, 1), (1, False, 1), (4, False, 4), (-1, False, 1), (0, True, ON_CPUS), (1, True, 1), (4, True, 4)],
)
def test_limits(gpus: int, several_hosts: bool, places: int) -> None:
    @dg.asset(pool="archive")
    def downloaded() -> None: ...

    @dg.asset(pool="gpu")
    def trained() -> None: ...

    @dg.op(pool="another")
    def fetched() -> None: ...

    @dg.job
    def fetching() -> None:
        fetched()

    of = dg.Definitions(assets=[downloaded, trained], jobs=[fetching])
    assert pool_limits(of, gpus, several_hosts=several_hosts) == {"another": 1, "archive": 2, "gpu": places}
