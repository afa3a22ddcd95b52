from dataclasses import replace

import numpy as np
import pytest

from trimtab.errors import WorkerDied
from trimtab.meters import Probe
from trimtab.meters.cost import Cost
from trimtab.meters.latency import Latency
from trimtab.race import race
from trimtab.run.client import open_worker
from trimtab.run.timing import MANY
from trimtab.runtimes.null import Null
from trimtab.values.figure import Figure
from trimtab.values.model import Cascade, Model


class Runner:
    """A session whose block times follow a rule, and who writes down what it is told."""

    def __init__(self, name, log, rule):
        self.name, self.log, self.rule, self.paused, self.calls = name, log, rule, False, 0

    def run(self, inputs):
        raise AssertionError("a latency race only times")

    def time(self, inputs, seconds):
        assert not self.paused
        self.log.append(self.name)
        self.calls += 1
        return np.full(20, self.rule((self.calls - 1) // 8 + 1))

    def usage(self):
        return {}

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False


@pytest.fixture
def probe(toy_view, make_null, machine):
    return Probe(toy_view, "validation", Model.open(make_null()), machine, seconds=0.0001)


def test_blocks_alternate_and_the_others_are_stopped(probe):
    log = []
    runners = [Runner(name, log, lambda block: 0.001) for name in "AB"]

    class Watching(Latency):
        def read(self, session, probe):
            assert [runner.paused for runner in runners] == [runner is not session for runner in runners]
            return super().read(session, probe)

    race([(runner, probe) for runner in runners], Watching(), blocks=3)
    assert "".join(log) == ("A" * 8 + "B" * 8) * 4, "a round to warm up, then three"
    assert not any(runner.paused for runner in runners)


def test_beside_a_cascade_all_are_timed_on_the_same_many_examples(probe):
    log = []
    staged = replace(probe.model, program=Cascade(("first", "main"), (0.9,), "output", (1.0, 0.3)))
    contestants = [(Runner("A", log, lambda block: 0.001), each) for each in (probe, replace(probe, model=staged))]
    found = race(contestants, Latency(), blocks=2)
    assert len(log) == 3 * 2 * MANY
    assert {figures[0].conditions["statistic"] for figures in found.figures} == {"mean"}
    slow = replace(probe, model=staged, example_s=0.05)
    assert len(slow.batches()) == 20, "about a second of the base"


def test_a_drift_that_both_meet_does_not_hide_the_ratio(probe):
    drift = np.random.default_rng(0).uniform(1, 3, 20)
    fast = Runner("fast", [], lambda block: 0.001 * drift[block])
    slow = Runner("slow", [], lambda block: 0.00105 * drift[block] * (1 + block % 2 / 1000))
    result = race([(slow, probe), (fast, probe)], Latency(), blocks=10)
    (ratio,) = result.ratios
    assert ratio.name == "latency_ms_ratio"
    assert ratio.low < 1.0505 < ratio.high
    assert ratio.low > 1.04
    first, second = (figures[0] for figures in result.figures)
    assert first.low < first.value < first.high
    assert first.high > second.low, "their own intervals overlap: only pairs tell them apart"
    assert first.n == 10
    assert {"load_average", "steal_share", "blocks"} <= set(first.conditions)


def test_every_figure_has_its_own_ratio_and_one_that_is_not_above_zero_has_none(probe):
    class Counting(Latency):
        def read(self, session, probe):
            latency = super().read(session, probe)
            return replace(latency, figures=(*latency.figures, Figure("misses", 0.0, "1")))

    rng = np.random.default_rng(2)
    tails = iter(rng.uniform(0.002, 0.006, 1000))
    runners = [Runner(name, [], lambda block: 0.001) for name in "AB"]
    for runner in runners:
        runner.time = lambda inputs, seconds: np.array([0.001] * 17 + [next(tails)] * 3)
    (found,) = race([(runner, probe) for runner in runners], Counting(), blocks=8).every_ratio
    assert list(found) == ["latency_ms", "latency_p90_ms"]
    assert found["latency_ms"].value == pytest.approx(1.0)
    tail = found["latency_p90_ms"]
    assert tail.name == "latency_p90_ms_ratio"
    assert tail.low < min(tail.value, 1.0) <= max(tail.value, 1.0) < tail.high


def test_noise_larger_than_the_effect_decides_nothing(probe):
    rng = np.random.default_rng(1)
    noisy = [Runner(str(i), [], lambda block: rng.uniform(0.001, 0.003)) for i in range(2)]
    (ratio,) = race([(runner, probe) for runner in noisy], Latency(), blocks=8).ratios
    assert ratio.low < 1 < ratio.high


def test_one_and_three_contestants(probe):
    runners = [Runner(str(ms), [], lambda block, ms=ms: ms * 1e-3 * (1 + block / 1e4)) for ms in (4, 2, 1)]
    alone = race([(runners[0], probe)], Latency(), blocks=6)
    assert alone.ratios == ()
    three = race([(runner, probe) for runner in runners], Latency(), blocks=6)
    assert [ratio.value for ratio in three.ratios] == pytest.approx([2, 4], rel=1e-3)


@pytest.mark.parametrize(("longest_s", "blocks"), [(0.0, 6), (1e6, 12)])
def test_a_race_that_lasts_too_long_has_fewer_blocks(probe, longest_s, blocks):
    runners = [Runner(name, [], lambda block: 0.001) for name in "AB"]
    result = race([(runner, probe) for runner in runners], Latency(), 12, longest_s)
    assert result.conditions["blocks"] == blocks


def test_a_meter_without_figures_gives_no_ratio(probe):
    free = replace(probe, machine=replace(probe.machine, usd_per_hour=0.0))
    runners = [Runner(name, [], lambda block: 0.001) for name in "AB"]
    result = race([(runner, free) for runner in runners], Cost(), blocks=2)
    assert result.figures == ((), ())
    assert result.ratios == ()


class Dim(Latency):
    """Gives nothing, or nothing but zero, of the sessions named."""

    def __init__(self, none="", zero=""):
        self.none, self.zero = none, zero

    def read(self, session, probe):
        reading = super().read(session, probe)
        if session.name in self.none and session.calls > 24:
            return replace(reading, figures=())
        value = 0.0 if session.name in self.zero else reading.figures[0].value
        return replace(reading, figures=tuple(replace(figure, value=value) for figure in reading.figures))


def test_what_one_contestant_or_block_lacks_has_no_ratio(probe):
    def runs(meter):
        return race([(Runner(name, [], lambda block: 0.001), probe) for name in "AB"], meter, blocks=3)

    some = runs(Dim(none="B"))
    assert (len(some.figures[0]), some.figures[1], some.ratios) == (2, (), ())
    zero = runs(Dim(zero="B"))
    assert (zero.figures[1][0].value, zero.ratios) == (0.0, ())


def test_a_race_takes_blocks_and_contestants(probe):
    with pytest.raises(ValueError, match="0 contestants"):
        race([], Latency())


@pytest.mark.slow
def test_workers_race(make_null, machine, probe):
    probe = replace(probe, seconds=0.01)
    opened = [open_worker(make_null(), Null(delay_ms=ms), machine) for ms in (4, 1)]
    with opened[0] as slow, opened[1] as fast:
        result = race([(slow, probe), (fast, probe)], Latency(), blocks=4)
    assert result.ratios[0].value > 1
    assert [figures[0].unit for figures in result.figures] == ["ms", "ms"]


def test_a_contestant_that_dies_leaves_the_others_running(make_null, machine, probe):
    with open_worker(make_null(), Null(), machine) as good:
        crash = pytest.raises(WorkerDied, match="SIGSEGV")
        with open_worker(make_null(), Null(fail="crash"), machine) as bad, crash:
            race([(good, probe), (bad, probe)], Latency(), blocks=2)
        assert good.time({"features": np.ones((1, 5), np.float32)}, 0.001).size
