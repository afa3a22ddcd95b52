"""The search's judgement: how likely a candidate is to pass, which are tested and in which order, what comes next."""

import copy
import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.candidates import Candidate, Predictor, cuts, expect
from trimtab.chance import expected_chance
from trimtab.errors import CorruptFile, DataError, OutputError, WorkerDied, WorkerHung, one_line
from trimtab.passes import Overrun
from trimtab.passes.distill import Distill
from trimtab.recipe import Bound, bind
from trimtab.search import (
    WORTH_TESTING,
    WORTH_TRYING,
    Aim,
    Search,
    Trial,
    judgement_from_json,
    out_of_reach,
    thin,
)
from trimtab.tasks import open_task
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from trimtab.values.machine import Machine
from trimtab.values.promise import Limit, Promise
from trimtab.values.tab import Tab
from trimtab.verify import Judgement
from workbench import Narrow, Stem, quick

__all__ = ["quick"]
PROMISE = "accuracy >= base - 0.02"
JUDGEMENT = Judgement(PROMISE, "", "UNDECIDED", 0.9, 0.9, 0.0, -0.008, 0.008, -0.02, "share", 1000, "")


def test_a_judgement_survives_the_tab():
    endless = replace(JUDGEMENT, low=-math.inf, high=math.inf, p_value=0.2, more_examples=7)
    for each in (JUDGEMENT, endless):
        assert judgement_from_json(each.to_json()) == each


@given(st.lists(st.floats(0.01, 100), max_size=30))
def test_thin_keeps_the_surest_and_steps_worth_taking(values):
    walk = sorted(values, reverse=True)
    kept = thin(walk, lambda cost: cost)
    assert kept == sorted(kept, reverse=True)
    assert set(kept) <= set(values)
    assert len(kept) <= 6
    assert all(dear > cheap * 1.1 for dear, cheap in pairwise(kept))
    assert kept[:1] == walk[:1]
    assert not walk or kept[-1] <= walk[-1] * 1.1


def test_thin_takes_from_the_middle():
    walk = [2.0**place for place in range(10, 0, -1)]
    kept = thin(walk, lambda cost: cost)
    assert (kept[0], kept[-1], len(kept)) == (walk[0], walk[-1], 6)


TASK = open_task("toy(examples=90)")
FACTS = Facts("null", 195, 192, {"linear": 1}, weight_bits=64)
NAMES = iter(range(1, 10**9))


def trial(cost: float, likely: float, status="measured", **figures) -> Trial:
    runtime = bind(f"@ null(delay_ms={next(NAMES)})").runtime
    found = {"latency_ms": cost, **figures}
    return Trial(
        Candidate(Bound((), runtime), FACTS),
        status,
        figures={name: Figure(name, value, "") for name, value in found.items()},
        chance=likely,
    )


def search(*trials: Trial, limits: tuple[str, ...] = (), higher=False) -> Search:
    aim = Aim(
        (Promise.parse("accuracy >= base - 0.02"), Promise.parse("accuracy[class=*] >= base - 0.1")),
        "latency_ms",
        higher,
        tuple(map(Limit.parse, limits)),
        0.95,
    )
    bench = SimpleNamespace(base_figures={"latency_ms": Figure("latency_ms", 10.0, "ms")}, test_size=10_000)
    base = SimpleNamespace(model=SimpleNamespace(facts=FACTS))
    return Search(SimpleNamespace(task=TASK), bench, base, aim, None, None, trials=list(trials))


def test_what_was_scored_at_another_pace_is_quicker_to_measure():
    seen, same, other = (
        Candidate(Bound((), bind(f"@ null({setting})").runtime), FACTS)
        for setting in ("threads=1", "threads=2", "delay_ms=1")
    )
    found = search(replace(trial(20.0, 0.9), candidate=seen))
    found.bench.view = SimpleNamespace(size=lambda split: 500)
    assert found._measuring(other, 20.0) - found._measuring(same, 20.0) == pytest.approx(10.0), "500 calls of 20 ms"


@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 1)), max_size=12))
def test_the_walk_goes_from_mild_to_bold(points):
    walk = search(*(trial(*point) for point in points)).walk_order()
    costs = [each.figures["latency_ms"].value for each in walk]
    chances = [min(each.chance, 0.99) for each in walk]
    assert costs == sorted(costs, reverse=True)
    assert chances == sorted(chances, reverse=True)
    assert all(each.chance >= WORTH_TESTING for each in walk)
    assert all(cost < 10.0 for cost in costs)
    worth = [cost for cost, likely in points if likely >= WORTH_TESTING and cost < 10.0]
    assert (min(costs) <= min(worth) * 1.1) if worth else walk == []


def test_the_walk_leaves_out_what_breaks_a_limit_or_was_not_measured():
    good = trial(5.0, 0.9, size_mb=0.5)
    others = [trial(1.0, 0.9, size_mb=2.0), trial(1.0, 0.9), trial(1.0, 0.9, "dropped", size_mb=0.1)]
    found = search(good, *others, limits=("size_mb <= 1",))
    assert found.walk_order() == [good]
    assert found.outcomes() == [(pytest.approx(0.1), 1e7), (pytest.approx(0.9), 5.0)]
    assert [str(limit) for limit in found.aim.beyond(others[0].figures)] == ["size_mb <= 1"]


def test_of_those_that_cost_the_same_the_walk_takes_the_smaller():
    def small(cost: float, likely: float) -> Trial:
        one = trial(cost, likely)
        return replace(one, candidate=replace(one.candidate, facts=replace(FACTS, stored=0.5)))

    sure, large = trial(9.0, 0.99), trial(5.0, 0.9)
    for other, walk in (
        (small(5.2, 0.88), "the smaller"),
        (small(5.3, 0.88), "the larger"),
        (small(5.0, 0.84), "the larger"),
    ):
        found = search(sure, large, other).walk_order()
        assert found == [sure, other if walk == "the smaller" else large]
    assert search(large, small(5.2, 0.88)).walk_order() == [large], "the surest stays"
    other = small(5.2, 0.88)
    cut = replace(other, candidate=replace(other.candidate, bound=Bound((Stem(),), other.candidate.bound.runtime)))
    assert search(sure, large, cut).walk_order() == [sure, large], "another net"


def test_half_the_size_makes_up_for_a_little_of_the_cost():
    large, small = trial(5.0, 0.9), trial(5.0, 0.9)
    small = replace(small, candidate=replace(small.candidate, facts=replace(FACTS, stored=0.5)))
    found = search(large)
    assert found.price(large) == 5.0, "of the base's size"
    assert found.price(small) == pytest.approx(5.0 / 1.05)


@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 1)), max_size=12))
def test_the_ends_of_the_walk_are_all_there_are(points):
    ends = search(*(trial(*point) for point in points)).outcomes()
    assert math.fsum(share for share, _ in ends) == pytest.approx(1.0)
    assert all(-1e-12 <= share <= 1 for share, _ in ends)
    assert [cost for _, cost in ends] == sorted((cost for _, cost in ends), reverse=True)


def test_a_second_bet_is_worth_the_more_the_less_sure_the_first_is():
    mild = Candidate(Bound((Stem(),), bind("@ null").runtime), FACTS)
    gains = []
    for likely in (0.4, 0.7, 1.0):
        found = search(trial(1.0, likely))
        found.predictor = SimpleNamespace(
            figures=lambda one: {"latency_ms": Figure("latency_ms", 3.0, "ms", 2.9, 3.1)}, loss=lambda one: (0.0, 0.01)
        )
        gains.append(found.expected_gain(mild, found.bars))
    assert gains[0] > gains[1] > gains[2] == pytest.approx(0.0, abs=1e-3)


def test_a_bolder_bet_gains_only_where_the_surer_ones_pass():
    found = search(trial(4.0, 0.99), trial(2.0, 0.5))
    one = Candidate(Bound((Stem(),), bind("@ null").runtime), FACTS)

    def gain(cost: float, loss: float) -> float:
        found.predictor = SimpleNamespace(
            figures=lambda one: {"latency_ms": Figure("latency_ms", cost, "ms", cost, cost)},
            loss=lambda one: (loss, 0.01),
        )
        return found.expected_gain(one, found.bars)

    middle, bold = gain(3.0, 0.0), gain(1.9, 0.018)
    assert middle > bold > gain(2.1, 0.02), "a surer middle is worth more than a little below an unsure one"
    assert middle == pytest.approx((expected_chance(0.02, 0.01, 0.0014, 0.95) - 0.5) * math.log(4 / 3), rel=0.05)


def test_what_is_expected_to_be_ruined_is_no_bet_however_large_the_doubt_about_it():
    found = search()
    one = Candidate(Bound((Stem(),), bind("@ null").runtime), FACTS)

    def gain(loss: float) -> float:
        found.predictor = SimpleNamespace(
            figures=lambda one: {"latency_ms": Figure("latency_ms", 0.01, "ms", 0.01, 0.01)},
            loss=lambda one: (loss, 0.004 + loss / 2),
        )
        return found.expected_gain(one, found.bars)

    assert gain(0.8) < WORTH_TRYING < gain(0.1)


def test_an_unsure_form_of_a_net_does_not_hide_how_a_sure_one_could_be_served():
    bold, other = trial(1.0, 0.15), Candidate(Bound((Stem(),), bind("@ null(delay_ms=3)").runtime), FACTS)
    bold = replace(bold, candidate=replace(other, facts=replace(FACTS, quality_loss=0.01)))
    found = search(trial(4.0, 0.99), bold)
    found.predictor = SimpleNamespace(
        figures=lambda one: {"latency_ms": Figure("latency_ms", 3.0, "ms", 3.0, 3.0)}, loss=lambda one: (0.0, 0.002)
    )
    assert found.expected_gain(other, found.bars) > 0.1
    found.trials[1] = replace(bold, candidate=other)
    assert found.expected_gain(other, found.bars) < 0.05, "a form that loses no more was seen to be unsure"
    found.trials[1] = replace(bold, chance=0.99)
    assert found.expected_gain(other, found.bars) == pytest.approx(0.0, abs=1e-3)


def test_what_the_test_split_cannot_tell_counts_against_what_is_near_the_tolerance():
    found = search()
    found.predictor = SimpleNamespace(
        figures=lambda one: {"latency_ms": Figure("latency_ms", 1.0, "ms", 0.9, 1.1)}, loss=lambda one: (0.01, 0.002)
    )
    candidate = Candidate(Bound((Stem(),), bind("@ null").runtime), FACTS)
    gains = []
    for size in (100_000, 1000, 300):
        found.bench.test_size = size
        gains.append(found.expected_gain(candidate, found.bars))
    assert gains[0] > gains[1] > gains[2] > 0


def test_time_counts_the_less_the_less_of_it_is_left(machine, monkeypatch):
    quick, slow = (Candidate(Bound((), bind(f"@ null(delay_ms={delay})").runtime), FACTS) for delay in (1, 2))
    found = search()
    found.waiting, found.predictor = [quick, slow], SimpleNamespace(prepare=lambda waiting: None)
    monkeypatch.setattr(Candidate, "steps", property(lambda one: one.name))
    monkeypatch.setattr(Search, "expected_gain", lambda self, one, bars: 0.5 if one is slow else 0.1)
    monkeypatch.setattr(Search, "expected_seconds", lambda self, one: 30.0 if one is slow else 3.0)
    assert found.next(300.0) is quick, "nothing is spent yet"
    found.clock = lambda: 200.0
    assert found.next(100.0) is slow
    assert found.next(20.0) is quick, "there is no time for the other"


def test_what_begins_with_steps_that_were_refused_is_not_tried():
    runtimes = [bind(f"@ null(delay_ms={delay})").runtime for delay in (1, 2)]
    chains = [(Narrow(8),), (Narrow(8), Stem()), (Narrow(16),), ()]
    waiting = [Candidate(Bound(chain, runtime), FACTS) for chain in chains for runtime in runtimes]
    found = search()
    found.waiting = list(waiting)
    found._take(Trial(waiting[0], "refused", "no such layers", refused_at=1))
    assert found.waiting == waiting[4:]
    assert [t.candidate for t in found.trials] == waiting[:1], "one was tried"
    assert found.left_out == [(one, "no such layers") for one in waiting[1:4]]
    found._take(Trial(waiting[4], "refused", "not on this runtime"))
    assert found.waiting == waiting[5:]


def about(found: Search, machine, facts: Facts) -> None:
    """Give a search a base of these facts, and predictions."""
    found.workshop = SimpleNamespace(task=TASK, machine=machine)
    found.base = SimpleNamespace(model=SimpleNamespace(facts=facts))
    found.predictor = Predictor(machine, facts)


def test_what_the_walk_would_come_to_but_is_not_sure_is_recovered_for_longer(machine):
    facts = Facts("torch", 200_000, 5_000_000, {"linear": 2, "conv": 3})
    found = search(trial(5.0, 0.99))
    about(found, machine, facts)
    recipes = ["prune(ratio=0.9) | distill(steps=64)", "prune(ratio=0.8) | distill(steps=64)"]
    unsure, dearer = (expect(bind(f"{recipe} | onnx @ onnxruntime"), facts, machine) for recipe in recipes)
    found._take(replace(trial(2.0, 0.3), candidate=unsure))
    offered = {one.structure for one in found.waiting}
    assert len(offered) > 1
    assert all(one.startswith(f"{recipes[0]} | distill") for one in offered), "no deeper cut"
    found._take(replace(trial(3.0, 0.2), candidate=dearer))
    assert {one.structure for one in found.waiting} == offered, "the walk leaves it out"


@pytest.mark.slow
def test_what_the_walk_would_come_to_is_cut_once_more_where_it_is_likely(machine):
    facts = Facts("torch", 200_000, 5_000_000, {"linear": 2, "conv": 3})
    recipes = [f"prune(ratio={ratio}) | distill(steps=64) | onnx @ onnxruntime" for ratio in (0.7, 0.8, 0.9, 0.6)]
    found = search()
    about(found, machine, facts)
    offered = []
    for recipe, cost, likely in zip(recipes, (5.0, 2.0, 1.0, 6.0), (0.9, 0.8, 0.09, 0.9), strict=True):
        found._take(replace(trial(cost, likely), candidate=expect(bind(recipe), facts, machine)))
        offered.append(len(found.waiting))
    assert offered[0] > 20, "the first that is likely to pass"
    assert offered[1] > offered[0], "a cheaper one"
    assert offered[3] == offered[2] == offered[1], "neither what will fail nor what is dearer"
    assert all(one.name.startswith(("prune(ratio=0.7)", "prune(ratio=0.8)")) for one in found.waiting)


def test_what_was_unsure_first_is_cut_deeper_once_a_form_of_it_is_sure(machine):
    facts = Facts("torch", 200_000, 5_000_000, {"linear": 2, "conv": 3})
    found = search()
    about(found, machine, facts)
    recipe = "prune(ratio=0.7) | distill(steps=64) | onnx"
    unsure, sure = (
        expect(bind(text), facts, machine)
        for text in (f"{recipe} | quantize(method='dynamic') @ onnxruntime", f"{recipe} @ onnxruntime")
    )
    found._take(replace(trial(2.0, 0.3), candidate=unsure))
    recovered = len(found.waiting)
    found._take(replace(trial(3.0, 0.9), candidate=sure))
    assert len(found.waiting) > recovered > 0
    assert any(len(cuts(one.bound.passes)) > 1 for one in found.waiting)


def test_where_higher_is_better_the_cost_is_turned_round():
    fast, slow = trial(40.0, 0.9), trial(5.0, 0.9)
    assert search(fast, slow, higher=True).walk_order() == [fast]


def test_the_tolerance_is_the_tightest_margin():
    assert search().tolerance == 0.02


def test_a_base_beyond_a_limit_is_dearer_than_anything():
    within = trial(20.0, 0.9, size_mb=0.5)
    assert search(within).walk_order() == []
    assert search(within, limits=("size_mb <= 1",)).walk_order() == [within]


@pytest.mark.parametrize(
    ("text", "value", "low", "high", "expected"),
    [
        ("latency_ms <= 1", 1.5, 0.9, 2.5, False),
        ("latency_ms <= 1", 3.0, 1.8, 5.0, True),
        ("throughput_per_s >= 100", 80.0, 50.0, 130.0, False),
        ("throughput_per_s >= 100", 20.0, 10.0, 40.0, True),
        ("size_mb <= 1", 1.5, None, None, False),
        ("size_mb <= 1", 3.0, None, None, True),
        ("size_mb <= 1", 0.5, None, None, False),
    ],
)
def test_a_limit_is_out_of_reach_only_beyond_the_interval(text, value, low, high, expected):
    limit = Limit.parse(text)
    assert out_of_reach(limit, Figure(limit.figure, value, "", low, high)) == expected
    assert not out_of_reach(limit, None)


@dataclass
class Broken:
    """A workshop whose every step fails."""

    error: BaseException
    machine: None = None

    def apply(self, made, steps, base):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("no"), "refused"),
        (WorkerDied("no"), "failed"),
        (WorkerHung("no"), "fault"),
        (TimeoutError("no"), "fault"),
        (MemoryError("no"), "fault"),
        (OSError("no"), "fault"),
        (ZeroDivisionError("no"), "failed"),
    ],
)
def test_what_goes_wrong_becomes_a_status_and_a_reason(error, status):
    found = search()
    found.base = SimpleNamespace(seconds=0.0, model=SimpleNamespace(facts=FACTS))
    found.predictor = SimpleNamespace(figures=lambda candidate: {})
    found.expected_seconds = lambda candidate: 1.0
    found.bench.lost_base = False
    found.workshop = Broken(error)
    ended = found.attempt(Candidate(Bound((Narrow(16),), bind("@ null").runtime), FACTS))
    assert (ended.status, ended.made, ended.chance) == (status, None, 0.0)
    assert "no" in ended.reason
    found.workshop = Broken(OutputError("full"))
    with pytest.raises(OutputError):
        found.attempt(ended.candidate)


def test_what_is_given_up_early_tells_how_long_its_like_takes():
    found = search()
    found.base = SimpleNamespace(seconds=0.0, model=SimpleNamespace(facts=FACTS))
    found.predictor = SimpleNamespace(figures=lambda candidate: {})
    found.expected_seconds = lambda candidate: 1.0
    overrun = copy.copy(Overrun(1000.0, 10.0))  # as it comes from another process, where there are workers
    found.workshop = Broken(overrun)
    ended = found.attempt(Candidate(Bound((Narrow(16),), bind("@ null").runtime), FACTS))
    assert (ended.status, ended.reason) == (
        "fault",
        "given up early: about 1000 s more are needed, 10 s are allowed",
    )
    assert found._corrected(Narrow(8), 1.0) * found._guess(Narrow(16), FACTS) > 999


@pytest.mark.parametrize("asked", [False, True])
def test_a_recovery_that_takes_far_longer_than_expected_is_put_off_once(tmp_path, asked):
    found = search()
    found.base = SimpleNamespace(seconds=0.0, model=SimpleNamespace(facts=FACTS))
    found.predictor = SimpleNamespace(figures=lambda candidate: {})
    found.expected_seconds, found.workshop = (lambda candidate: 30.0), Broken(Overrun(300.0, 60.0))
    slow = Candidate(Bound((Narrow(16),), bind("@ null").runtime), FACTS)
    (found.first if asked else found.waiting).append(slow)
    found.ranked = lambda seconds_left: [slow] if len(found.slowness.get("narrow", [])) < 2 else []
    begun, allowed, queued = time.monotonic(), [], []

    def tell(search, doing):
        allowed.append(getattr(search.workshop, "patience", None))
        queued.append((search.first, search.waiting)[not asked] == [slow])

    found.tell = tell
    with Tab.open(tmp_path) as found.tab:
        found.run(math.inf)
    assert [trial.status for trial in found.trials] == ["fault"], "its first attempt is not listed beside its second"
    assert queued == [True, True], "what was asked for comes before all others again"
    assert found.first + found.waiting == [], "it was patiently tried, and there is no third attempt"
    assert found.workshop.patience is None
    assert allowed[1] == pytest.approx(begun + 60.0, abs=5.0)
    assert found._corrected(Narrow(8), 1.0) * found._guess(Narrow(16), FACTS) > 299


def test_guesses_about_training_go_at_the_pace_of_the_base():
    found = search()
    found.pace = 3.0
    found.workshop = SimpleNamespace(machine=Machine("m", 1, (), peak_gflops={"fp32": 50.0}))
    train, export = Distill(steps=100), SimpleNamespace(stage="export", seconds=lambda facts, machine: 2.0)
    told = train.seconds(FACTS, found.workshop.machine)
    assert found._guess(train, FACTS) == pytest.approx(max(3 * told, 0.1))
    assert found._guess(export, FACTS) == 2.0


def recorded(**changes):
    done = replace(trial(5.0, 0.9), judgements=(JUDGEMENT,), loss=0.01)
    return done, done.to_json() | {"kind": "candidate"} | changes


def resumed(done: Trial, record, walk=None) -> Search:
    found = search()
    lines = SimpleNamespace(of=lambda kind: [record])
    found.tab = SimpleNamespace(path="run/tab.jsonl", read=lambda: lines)
    found.predictor = SimpleNamespace(learn=lambda *_: None)
    found.base = SimpleNamespace(model=SimpleNamespace(facts=FACTS))
    found.bench.view = SimpleNamespace(size=lambda split: 1000)
    found.workshop = SimpleNamespace(task=TASK, peek=lambda *_: 0, apply=lambda *_: "made again")
    found.waiting = [done.candidate]
    found.resume(walk)
    return found


def test_a_model_that_is_gone_is_made_again_where_the_frozen_walk_needs_it():
    done = replace(trial(5.0, 0.9), candidate=Candidate(Bound((Narrow(16),), bind("@ null").runtime), FACTS))
    record, name = done.to_json() | {"kind": "candidate"}, done.candidate.name
    assert resumed(done, record).trials == []
    assert [one.made for one in resumed(done, record, [name]).trials] == ["made again"]
    assert [one.made for one in resumed(done, record, ["another"]).trials] == [None]


def test_a_trial_survives_the_tab():
    done, record = recorded()
    assert resumed(done, record).trials == [replace(done, made="made again")]
    assert resumed(done, record | {"status": "fault"}).trials == []
    assert resumed(done, record | {"recipe": "@ null"}).trials == []


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 5},
        {"status": ["measured"]},
        {"recipe": []},
        {"figures": {}},
        {"figures": {"latency_ms": 5}},
        {"figures": {"latency_ms": {"name": "latency_ms", "value": "x", "unit": "ms"}}},
        {"predicted": []},
        {"chance": "x"},
        {"loss": []},
        {"seconds": None},
        {"judgements": [5]},
        {"judgements": [{"promise": "accuracy"}]},
    ],
)
def test_a_damaged_record_names_the_tab_and_the_way_out(changes):
    with pytest.raises(CorruptFile, match=r"run/tab\.jsonl holds a candidate .*; remove the folder, or choose another"):
        resumed(*recorded(**changes))


def test_a_record_of_its_kind_alone_is_damaged():
    with pytest.raises(CorruptFile, match="KeyError: 'recipe'"):
        resumed(recorded()[0], {"kind": "candidate"})


@given(st.text(max_size=1000))
def test_a_reason_is_one_line(text):
    line = one_line(ValueError(text))
    assert "\n" not in line
    assert 0 < len(line) <= 300
