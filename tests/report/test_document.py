import math

import pytest
from report_results import as_the_search_writes, edges, infeasible, result

from trimtab.report.document import Outcome, Result, Term, Value, number, text


@pytest.mark.parametrize(
    ("promise", "base", "limit", "better"),
    [
        ("accuracy >= base - 0.01", 0.97, 0.96, "higher"),
        ("accuracy >= base - 1%", 0.97, 0.96, "higher"),
        ("accuracy[class=*] >= base - 2 points", 0.97, 0.95, "higher"),
        ("log_loss <= base + 0.1", 0.5, 0.6, "lower"),
        ("perplexity <= base * 1.02", 10.0, 10.2, "lower"),
        ("agreement >= 0.99", None, 0.99, "higher"),
        ("accuracy >= base", 0.97, 0.97, "higher"),
        ("accuracy >= base - 0.01", None, None, "higher"),
        ("something else", 0.97, None, "higher"),
    ],
)
def test_a_promise_gives_the_worst_value_that_keeps_it(promise, base, limit, better):
    term = Term.read(promise)
    assert term.limit(base) == (None if limit is None else pytest.approx(limit))
    assert term.better == better


def test_the_limit_of_a_difference_lies_on_the_worse_side():
    assert Outcome.read({"promise": "accuracy >= base - 0.01", "margin": 0.01}).limit == -0.01
    assert Outcome.read({"promise": "log_loss <= base + 0.1", "margin": 0.1}).limit == 0.1


@pytest.mark.parametrize("bad", [None, True, "3", math.nan, math.inf, 10**400, [], {}])
def test_what_is_no_finite_number_is_missing(bad):
    assert number(bad) is None
    assert Value.read({"value": bad}) is None


def test_text_keeps_words_of_any_script_and_drops_what_steers_a_terminal():
    assert text("größer 数 مرحبا") == "größer 数 مرحبا"
    assert text("a\x1b[2J\nb\u202ec") == "a�[2J b�c"


def test_the_chosen_candidate_comes_first_and_the_base_second():
    ranked = Result(result()).ranked
    assert ranked[0].recipe == result()["recipe"]
    assert ranked[1].status == "base"
    assert len(ranked) + sum(Result(result()).untried.values()) == len(result()["candidates"])


def test_nothing_is_chosen_without_chosen_figures():
    run = Result(infeasible())
    assert not any(run.is_chosen(candidate) for candidate in run.candidates)


def test_an_objective_may_be_named_without_its_unit():
    assert Result(result() | {"objective": "latency"}).objective == "latency_ms"


def test_headlines_name_a_kind_of_cost_once():
    names = [name for name, _ in Result(result()).headline_numbers()]
    assert names == ["latency_ms", "size_mb", "memory_mb"]


def test_the_limit_on_the_plot_is_taken_from_the_validation_base():
    assert Result(result()).base_quality() == 0.974
    assert Result(edges()["empty"]).base_quality() is None


def test_a_document_without_a_base_row_gets_one_and_a_predicted_loss_becomes_a_quality():
    run = Result(as_the_search_writes())
    assert run.candidates[0].status == "base"
    assert run.candidates[0].figures["accuracy"].value == 0.9712
    predicted = run.candidates[1].predicted["accuracy"]
    assert (predicted.low, predicted.value, predicted.high) == pytest.approx((0.9642, 0.9672, 0.9702))


def test_slices_of_one_promise_are_one_family_and_an_absolute_promise_keeps_its_value():
    tests = Result(as_the_search_writes()).tests
    assert {test.family for test in tests[1:-1]} == {"accuracy[class=*] >= base - 0.05"}
    assert {test.limit for test in tests[1:-1]} == {-0.05}
    assert tests[-1].absolute
    assert tests[-1].limit == 0.99
