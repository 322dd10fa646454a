"""The simulation of a cluster against cases whose answer is known."""

import math
from typing import Any

import numpy as np
import pytest

from mars_assets_tests.scripts import benchmark

sim: Any = benchmark("cluster_simulation")

AT_ONCE = {"look": 0.0, "launch": 0.0, "ready": 0.0, "most_runs": 10**9}
"""A daemon that takes no time."""


def stage(seconds: Any, name: str = "map", **options: Any) -> Any:
    return sim.Stage(name, np.asarray(seconds, float), **options)


def outcome(stages: list[Any], cluster: Any, deaths: Any = None, seed: int = 0, **scheduling: Any) -> Any:
    return sim.Simulation(stages, cluster, sim.Scheduling(**{**AT_ONCE, **scheduling}), seed, deaths).run()


def test_one_host_takes_the_sum() -> None:
    seconds = [3, 5, 7, 11, 13]
    found = outcome([stage(seconds, per_run=2, overhead=10.0)], sim.Cluster(1, 1))
    assert found.end == 3 * 10 + sum(seconds)
    assert found.finished[0].tolist() == [18, 18, 46, 46, 69]
    assert found.runs == 3
    assert found.busy["cores"] == found.end
    assert found.lost == {"cores": 0, "gpus": 0}


def test_two_hosts_take_half_and_a_bigger_one_as_much() -> None:
    seconds = np.full(40, 6.0)
    for cluster in (sim.Cluster(2, 1), sim.Cluster(1, 2)):
        assert outcome([stage(seconds)], cluster).end == 120
    # A GPU for each, and cores for two.
    assert outcome([stage(seconds, gpus=1)], sim.Cluster(2, 2, gpus=1)).end == 120
    assert outcome([stage(seconds, cores=2)], sim.Cluster(1, 5)).end == 120


def test_stages_overlap_as_in_a_pipeline() -> None:
    # The second stage is the slower one: it begins when the first scene is through, and has no pause.
    stages = [stage(np.full(10, 2.0), "first", places=1), stage(np.full(10, 5.0), "second", after=0, places=1)]
    assert outcome(stages, sim.Cluster(2, 1)).end == 2 + 10 * 5
    # A range of the second is ready when all its scenes are.
    stages[1] = stage(np.full(10, 5.0), "second", after=0, places=1, per_run=5)
    assert outcome(stages, sim.Cluster(2, 1)).end == 5 * 2 + 10 * 5


def test_the_daemon_takes_its_time() -> None:
    # Taken at 0, 5, 10, ... where the one before has ended, and launched half a second later.
    found = outcome([stage([3.0, 3.0, 6.0, 3.0])], sim.Cluster(1, 1), look=5.0, launch=0.5, most_runs=1)
    assert found.finished[0].tolist() == [3.5, 8.5, 16.5, 23.5]
    # Those launched at one look come one after another.
    found = outcome([stage([3.0, 3.0, 3.0])], sim.Cluster(3, 1), launch=0.5)
    assert found.finished[0].tolist() == [3.5, 4.0, 4.5]
    # A backfill looks every 30 s for what is ready.
    stages = [stage([4.0], "first"), stage([1.0], "second", after=0)]
    assert outcome(stages, sim.Cluster(1, 1), ready=30.0).end == 31


def test_limits_hold() -> None:
    seconds = np.full(60, 4.0)
    assert outcome([stage(seconds)], sim.Cluster(10, 10), most_runs=6).end == 40
    found = outcome([stage(seconds, places=3)], sim.Cluster(10, 10))
    assert (found.end, found.most["map"]) == (80, 3)
    # What the pool keeps out does not keep out others.
    found = outcome([stage(seconds, "download", places=2), stage(seconds, "cut")], sim.Cluster(4, 1), most_runs=4)
    assert found.finished[1].max() == 120
    assert found.end == 120


def test_a_priority_leaves_the_queue_first() -> None:
    stages = [stage(np.full(5, 1.0), "cut"), stage(np.full(5, 1.0), "map", priority=1)]
    found = outcome(stages, sim.Cluster(1, 1), most_runs=1)
    # One that was queued alone has left already.
    assert found.finished[1].max() < np.sort(found.finished[0])[1]


def test_a_death_costs_the_scene_in_progress_and_the_wait() -> None:
    # Scenes end at 12, 22, 32, 42 on one host, which dies at 27 for 100 s.
    one = stage([10.0] * 4, per_run=4, overhead=2.0)
    found = outcome([one], sim.Cluster(1, 1), [(27.0, 0, 100.0)], noticed=90.0)
    assert found.end == 127 + 2 + 20, "two scenes stay, and the host is back later than the death is noticed"
    assert found.lost["cores"] == 2 + 5, "the load and half a scene"
    assert (found.deaths, found.retried, found.failed) == (1, 1, 0)
    assert found.computed[0].tolist() == [1] * 4
    # On another host, as soon as it is noticed.
    found = outcome([one], sim.Cluster(2, 1), [(27.0, 0, 1000.0)], noticed=90.0)
    assert found.end == 27 + 90 + 2 + 20
    # A death while the run loads loses nothing but that.
    found = outcome([one], sim.Cluster(2, 1), [(1.0, 0, 1000.0)], noticed=90.0)
    assert found.end == 1 + 90 + 2 + 40


def test_a_second_death_waits_for_the_next_backfill() -> None:
    deaths = [(5.0, 0, 1.0), (20.0, 0, 1.0)]
    found = outcome([stage([10.0])], sim.Cluster(1, 1), deaths, noticed=8.0, backfill=100.0)
    assert (found.retried, found.failed) == (1, 1)
    assert found.end == 100 + 10
    assert found.lost["cores"] == 5 + 7


def test_places_of_the_dead_are_taken_until_it_is_noticed() -> None:
    found = outcome([stage([10.0, 10.0], places=1)], sim.Cluster(2, 1), [(5.0, 0, 1e6)], noticed=90.0)
    assert sorted(found.finished[0]) == [95 + 10, 95 + 20]


def test_exponential_services_agree_with_the_formula() -> None:
    # N jobs at once on c servers: (N - c) ends at rate c, and then the harmonic number of those left.
    scenes, servers, mean = 400, 8, 3.0
    expected = mean * ((scenes - servers) / servers + sum(1 / left for left in range(1, servers + 1)))
    ends = []
    for seed in range(200):
        seconds = np.random.default_rng(seed).exponential(mean, scenes)
        ends.append(outcome([stage(seconds)], sim.Cluster(servers, 1)).end)
    error = np.std(ends) / math.sqrt(len(ends))
    assert abs(np.mean(ends) - expected) < 3.5 * error
    assert error < 0.01 * expected


def test_a_queue_behind_random_arrivals_agrees_with_pollaczek_and_khinchine() -> None:
    # The ends of a stage with exponential seconds in one place are Poisson arrivals for the next.
    scenes, load = 60_000, 0.6
    first = stage(np.random.default_rng(3).exponential(1.0, scenes), "first", places=1)
    found = outcome([first, stage(np.full(scenes, load), "second", after=0, places=1)], sim.Cluster(1, 2))
    assert np.mean(found.waits[1]) == pytest.approx(load * load / (2 * (1 - load)), rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_every_scene_is_computed_once_whatever_dies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = 600
    stages = [
        stage(rng.exponential(20, scenes), "download", places=2, per_run=3, overhead=8.0),
        stage(rng.exponential(10, scenes), "cut", cores=4, after=0, per_run=7, overhead=8.0),
        stage(rng.exponential(40, scenes), "map", cores=8, gpus=1, after=0, places=5, per_run=4, overhead=8.0),
    ]
    cluster = sim.Cluster(5, 16, gpus=1, between_failures=600.0, away=300.0)
    found = outcome(stages, cluster, seed=seed, look=5.0, launch=0.5, ready=30.0, most_runs=10, backfill=7200.0)
    assert found.deaths > 10
    assert found.failed > 0
    for computed, finished in zip(found.computed, found.finished, strict=True):
        assert (computed == 1).all()
        assert not np.isnan(finished).any()
    for later in (1, 2):
        assert (found.finished[later] > found.finished[0]).all()
    assert found.most["download"] <= 2
    assert found.most["map"] <= 5
    assert found.most["in progress"] <= 10
    # All that was used is what scenes took, what was lost and what runs load, which a lost run loses too.
    useful = sum(one.cores * one.seconds.sum() for one in stages)
    loads = found.busy["cores"] - found.lost["cores"] - useful
    least = 8.0 * sum(one.cores * -(-scenes // one.per_run) for one in stages)
    assert loads == pytest.approx(least)


def test_a_seed_gives_the_same_again_and_another_does_not() -> None:
    assumed = sim.Assumptions(mean_days=0.2)
    ends = [sim.simulate(sim.Scenario(2), 300, seed, assumed)[0] for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_what_cannot_be_placed_is_refused_instead_of_waiting_for_ever() -> None:
    with pytest.raises(ValueError, match="wait for ever"):
        outcome([stage([1.0], gpus=1)], sim.Cluster(4, 16))


def test_scheduling_that_does_not_end_is_an_error() -> None:
    # Hosts that live shorter than a scene takes.
    cluster = sim.Cluster(1, 1, between_failures=50.0, away=50.0)
    endless = sim.Simulation([stage([1000.0])], cluster, sim.Scheduling(), 0)
    with pytest.raises(RuntimeError, match="no end"):
        endless.run(longest=2 * sim.DAY)


def test_more_gpus_are_never_slower_and_downloads_bound_them() -> None:
    found = [sim.simulate(sim.Scenario(gpus), 2000, 0, sim.Assumptions()) for gpus in (1, 8, 64)]
    days = [values["days"] for values, _, _ in found]
    assert days[0] > days[1] >= 0.99 * days[2]
    assert found[2][1] == "downloads"
    for values, _, _ in found:
        assert values["ratio"] >= 1
