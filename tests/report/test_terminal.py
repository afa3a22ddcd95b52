import io

import pytest
from report_results import edges, result
from rich.console import Console

from trimtab.report.terminal import render

EDGES = edges()


def printed(document, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(document))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("name", EDGES)
def test_every_edge_fits_the_width_and_sends_no_control_codes(name, width):
    shown = printed(EDGES[name], width)
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    assert not set("\x1b\u202e\ud800") & set(shown)


@pytest.mark.parametrize("width", [80, 140])
def test_the_verdict_comes_first_and_the_numbers_follow(width):
    shown = printed(result(), width)
    assert shown.startswith("Promise kept. 7.1 times faster")
    for words in (
        "4.21 ms",
        "0.594 ms",
        "7.09×",
        "[6.81, 7.37]",
        "−0.32 points",
        "class=9",
        "PASS",
        "0.518 → 0.594 ms",
    ):
        assert words in shown
    for status in ("certified", "frontier", "not certified", "dominated", "dropped", "failed", "refused", "not tried:"):
        assert status in shown
    assert "17 right before and wrong now" in shown
    assert "seed 0" in shown


@pytest.mark.parametrize("width", [80, 140])
def test_a_promise_with_a_factor_shows_what_changed_and_names_what_was_tested(width):
    shown = printed(EDGES["factor"], width)
    for words in ("+0.00500 nats", "trimmed − 1.02 × base", "[−0.00900, −0.00100]"):
        assert words in shown
    assert "−0.00500 nats" not in shown


def test_a_confidence_is_not_rounded():
    assert "confidence 99.9%" in printed(result() | {"confidence": 0.999}, 140)


def test_every_candidate_is_listed_with_its_reason_on_a_wide_terminal():
    document = result()
    shown = printed(document, 200)
    for candidate in document["candidates"]:
        assert (candidate["recipe"] in shown) == (candidate["status"] != "not tried")
        assert (candidate["reason"] or "") in shown


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_folds_recipes_and_keeps_names_and_numbers_whole(width):
    shown = printed(result(), width)
    for words in ("Latency p90", "measured", "[0.574, 0.614]", "−0.32 points", "[6.81, 7.37]", "[−0.71, +0.04]"):
        assert words in shown
    for piece in ("distill(epochs=3) |", "quantize(weights=8", "openvino(threads=1)"):
        assert piece in shown


def test_square_brackets_of_a_document_are_not_styles():
    assert "[bold]" in printed({"sentence": "a [bold] claim"}, 80)


def test_an_undecided_promise_says_how_many_more_examples():
    assert "1,150 more examples would decide it" in " ".join(printed(EDGES["undecided"], 140).split())
