"""Tables of names and figures on narrow terminals: folded, never cut."""

import io
import re
from types import MappingProxyType

import pytest
from rich.console import Console

from trimtab.report.faces import FACES, MOST

RECIPE = "train(steps=2000) | prune(ratio=0.5) | onnx | quantize(weights=8) @ onnxruntime(threads=1)"


def figure(value, unit, low=None, high=None):
    return MappingProxyType({"value": value, "unit": unit, "low": low, "high": high, "origin": "measured"})


def printed(face, document, width):
    out = io.StringIO()
    Console(file=out, width=width).print(FACES[face](document))
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    assert "…" not in out.getvalue()
    return out.getvalue()


MEASURED = {
    "recipe": RECIPE,
    "model": "zoo:resnet",
    "base_runtime": "torch(threads=1)",
    "figures": {"throughput_per_s": figure(12345.0, "/s", 12000.0, 13000.0), "usd_per_million": figure(0.01, "usd")},
    "ratios": {"throughput_per_s": figure(7.09, "x", 6.8, 7.4)},
}


@pytest.mark.parametrize("width", [60, 80, 140])
def test_figures_are_whole_at_any_width(width):
    shown = printed("figures", MEASURED, width)
    for words in ("throughput_per_s", "12,345 /s", "[12,000, 13,000]", "7.09×", "[6.80, 7.40]", "measured", "$0.0100"):
        assert words in shown


def plan(count):
    predicted = {
        "latency_ms": figure(0.5, "ms", 0.2, 1.0),
        "size_mb": figure(1.2, "MB"),
        "quality_loss": figure(0.003, "share"),
    }
    candidates = [{"recipe": f"number{place} | {RECIPE}", "predicted": predicted} for place in range(count)]
    return {"candidates": candidates, "decidable": [{"sentence": "it [x] can be decided"}]}


@pytest.mark.parametrize("width", [60, 80])
def test_a_plan_shows_the_first_candidates_and_last_what_can_be_decided(width):
    shown = printed("plan", plan(MOST + 3), width)
    assert "and 3 more: --json lists them" in shown
    assert f"number{MOST - 1} " in shown
    assert f"number{MOST} " not in shown
    assert shown.rstrip().endswith("it [x] can be decided")
    folded = "".join(re.split(r"\s{2,}", line)[0] for line in printed("plan", plan(1), width).splitlines())
    assert RECIPE.replace(" ", "") in folded.replace(" ", "")
    assert "more: --json" not in printed("plan", plan(MOST), width)


def test_an_absolute_promise_shows_its_interval_beside_the_value():
    promise = {"promise": "accuracy >= 0.9", "slice": "", "verdict": "PASS", "unit": "share", "base": 0.95}
    promise |= {"trimmed": 0.9412, "difference": None, "low": 0.931, "high": 0.952, "margin": 0.9, "n": 2500}
    shown = printed("verification", {"verdict": "PASS", "sentence": "kept", "promises": [promise]}, 140)
    (row,) = (line for line in shown.splitlines() if "accuracy >= 0.9" in line)
    assert row.split() == ["accuracy", ">=", "0.9", "95.0%", "94.1%", "[93.1,", "95.2]", "–", "PASS"]
