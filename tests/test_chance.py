"""The chance to pass the sealed test: honest about what validation can tell, and about luck."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.chance import USUAL_LOSS, chance_of_passing, expected_chance, sealed_error
from trimtab.maths.intervals import clopper_pearson, never_seen_bound
from trimtab.maths.metrics import Mean
from trimtab.values.promise import Promise
from trimtab.values.task import Example, Task
from trimtab.verify import EXACT, Evidence, Judgement, judge

shares = st.floats(-0.1, 0.1)


def judgement(difference=0.0, margin=-0.02, error=0.005, where="", n=1000) -> Judgement:
    promise = f"accuracy{f'[{where}]' if where else ''} >= base - {abs(margin):g}"
    ends = (difference - 1.645 * error, difference + 1.645 * error)
    return Judgement(promise, where, "UNDECIDED", 0.9, 0.9 + difference, difference, *ends, margin, "share", n, "")


def chance(*judgements: Judgement, ratio=1.0) -> float:
    return chance_of_passing(judgements, ratio, 0.95)


@given(shares, shares, st.floats(0.001, 0.05), st.floats(0.2, 5))
def test_the_better_the_difference_the_likelier(one, two, error, ratio):
    worse, better = sorted((one, two))
    assert chance(judgement(worse, error=error), ratio=ratio) <= chance(judgement(better, error=error), ratio=ratio)


@given(shares, st.floats(0.001, 0.2), st.floats(0.001, 0.2))
def test_the_wider_the_margin_the_likelier(difference, one, two):
    tight, wide = sorted((one, two))
    assert chance(judgement(difference, -tight)) <= chance(judgement(difference, -wide))


@given(shares, st.floats(0.001, 0.05))
def test_it_is_a_probability_and_more_promises_are_never_likelier(difference, error):
    single = chance(judgement(difference, error=error))
    assert 0 <= chance(judgement(difference, error=error), judgement(0.0, where="class=1", n=100)) <= single <= 1


def test_a_larger_test_split_helps_what_is_good_and_not_what_is_bad():
    good, bad = judgement(-0.01, error=0.008), judgement(-0.03, error=0.008)
    assert chance(good, ratio=0.1) > chance(good, ratio=1.0)
    assert chance(bad, ratio=0.1) < 0.2


def test_what_was_proved_to_be_the_same_needs_no_proof_by_validation():
    seen = judgement(0.0, -0.01, error=0.008)
    assert chance_of_passing([seen], 0.2, 0.95, USUAL_LOSS["exact"]) > chance(seen, ratio=0.2) > 0.5
    assert chance_of_passing([seen], 25.0, 0.95, USUAL_LOSS["exact"]) < 0.5, "a small test split decides nothing"


def test_what_never_changed_on_few_examples_is_known_the_better_the_more_there_are():
    floor = never_seen_bound(85)
    clips = Judgement(
        "agreement >= 0.99", "", "UNDECIDED", None, 1.0, None, 1 - floor, 1 + floor, 0.99, "share", 85, ""
    )
    varied = replace(clips, low=1 - 1.01 * floor, high=1 + 1.01 * floor)
    sure, unsure = (chance_of_passing([one], 85 / 398, 0.95, USUAL_LOSS["exact"]) for one in (clips, varied))
    assert sure > 0.6 > 0.4 > unsure
    assert sealed_error([clips], 85 / 398, 0.95) < 0.5 * sealed_error([varied], 85 / 398, 0.95)


def agreed(differ: int, n: int = 150) -> Judgement:
    low, high = clopper_pearson(n - differ, n, 0.9)
    return Judgement(
        "agreement >= 0.97", "", "UNDECIDED", None, 1 - differ / n, None, low, high, 0.97, "share", n, EXACT
    )


@pytest.mark.parametrize("kind", USUAL_LOSS)
def test_answers_that_differ_tell_what_will_differ_though_few_usually_do(kind):
    chances = [chance_of_passing([agreed(n)], 150 / 700, 0.95, USUAL_LOSS[kind]) for n in range(10)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.95
    assert kind == "exact" or chances[6] < 0.35, "of 700 at most 13 may differ, and 28 will at this rate"


def test_the_chance_to_agree_is_that_of_the_draws_it_describes():
    chance, rng = np.random.default_rng(0), np.random.default_rng(1)
    differ = rng.binomial(700, chance.beta(3 + 0.5, 147 + 0.5, 20_000))
    passed = np.mean([clopper_pearson(700 - n, 700, 0.9)[0] >= 0.97 for n in differ.tolist()])
    assert chance_of_passing([agreed(3)], 150 / 700, 0.95) == pytest.approx(passed, abs=0.02)
    assert chance_of_passing([agreed(0, 10)], 1.0, 0.95) == 0.0, "ten examples decide nothing"


@given(st.floats(-0.03, 0.03), st.floats(0.001, 0.02), st.floats(0, 0.02))
def test_what_is_expected_passes_the_likelier_the_more_room_it_has(room, doubt, error):
    likely = expected_chance(room, doubt, error, 0.95)
    assert 0 <= likely <= expected_chance(room + 0.001, doubt, error, 0.95) <= 1
    assert expected_chance(room, doubt, error, 0.99) <= likely


def test_the_error_on_the_test_split_is_that_of_the_promise_known_least():
    seen = [judgement(error=0.004), judgement(error=0.008), judgement(error=0.05, where="class=1", n=100)]
    assert sealed_error(seen, 0.25, 0.95) == pytest.approx(0.004, rel=1e-3)
    assert sealed_error([replace(seen[0], unit="ms")], 0.25, 0.95) == 0.0


@pytest.mark.parametrize(
    ("promise", "base", "trimmed", "difference", "margin"),
    [
        ("accuracy >= base - 0.02", 0.9, 0.9, 0.0, -0.02),
        ("ndcg >= base * 0.9", 0.2, 0.2, 0.02, 0.0),
        ("agreement >= 0.98", None, 1.0, None, 0.98),
        ("accuracy >= 0.88", 0.9, 0.9, None, 0.88),
        ("word_error <= base + 0.02", 0.3, 0.3, 0.0, 0.02),
        ("word_error <= 0.32", 0.3, 0.3, None, 0.32),
    ],
)
def test_what_is_usual_is_told_in_the_units_of_each_promise(promise, base, trimmed, difference, margin):
    low, high = ((difference if difference is not None else trimmed) + e for e in (-0.05, 0.05))
    seen = Judgement(promise, "", "UNDECIDED", base, trimmed, difference, low, high, margin, "share", 100, "")
    assert chance_of_passing([seen], 0.01, 0.95, (0.0, 1e-9)) == pytest.approx(1.0, abs=1e-4)
    assert chance_of_passing([seen], 0.01, 0.95, (0.05, 1e-9)) == pytest.approx(0.0, abs=1e-4)


@given(st.floats(-0.05, 0.05), st.floats(0.001, 0.05))
def test_luck_on_validation_is_held_against_a_candidate(difference, error):
    seen = judgement(difference, -0.02, error)
    mirrored = replace(seen, promise="log_loss <= base + 0.02", difference=-difference, low=-seen.high, high=-seen.low)
    mirrored = replace(mirrored, margin=0.02, trimmed=0.9 - difference)
    drawn = [chance_of_passing([one], 0.2, 0.95, USUAL_LOSS["structure"]) for one in (seen, mirrored)]
    assert drawn[0] == pytest.approx(drawn[1])
    usual = judgement(-0.005, -0.02, error)
    certain = chance_of_passing([usual], 0.2, 0.95, USUAL_LOSS["structure"])
    assert (drawn[0] >= certain) == (difference >= -0.005) or drawn[0] == pytest.approx(certain)


def test_signs_turn_round_where_lower_is_better():
    higher = judgement(-0.01)
    lower = replace(
        higher, promise="log_loss <= base + 0.02", difference=0.01, low=-higher.high, high=-higher.low, margin=0.02
    )
    assert chance(lower) == pytest.approx(chance(higher))


def test_a_slice_is_drawn_towards_the_whole():
    alone = chance(judgement(-0.1, -0.05, 0.02, "class=1", 60))
    company = chance(judgement(0.0, -0.02, 0.003), judgement(-0.1, -0.05, 0.02, "class=1", 60))
    assert company > alone
    assert chance(judgement(0.0, -0.02, 0.003), judgement(0.0, -0.05, 0.02, "class=1", 60)) > company


def test_an_endless_interval_gives_no_chance():
    assert chance(replace(judgement(), low=-math.inf, high=math.inf)) == 0.0
    assert chance(replace(judgement(), low=-math.inf, high=math.inf, difference=None, trimmed=math.nan)) == 0.0


class Rated(Task):
    """Right answers in one column, wrong ones in another."""

    name, objective = "rated", "cross_entropy"
    metrics = (Mean("accuracy", 0, binary=True), Mean("error", 1, better="lower", binary=True))

    def split(self, name):
        raise NotImplementedError

    collate = score = split


@pytest.mark.parametrize(
    ("text", "likely"),
    [("accuracy >= 0.9", False), ("accuracy >= 0.75", True), ("error <= 0.1", False), ("error <= 0.25", True)],
)
def test_an_absolute_promise_is_held_against_what_the_base_shows(text, likely):
    """A net that answers as a base of 80% does is no likelier to reach 90% for it."""
    right = (np.arange(1000) % 5 > 0).astype(float)
    rows = np.stack([right, 1 - right], axis=1)
    evidence = Evidence(Rated(), tuple(Example(str(number), {}) for number in range(1000)), rows, rows)
    for kind in ("exact", "precision"):
        found = chance_of_passing(judge([Promise.parse(text)], evidence, 0.95), 1.0, 0.95, USUAL_LOSS[kind])
        assert (found > 0.9) if likely else (found < 0.01)
