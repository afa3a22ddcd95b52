"""The way from the base to a winner."""

import pytest

from trimtab.errors import Refused
from trimtab.gain import ladder
from trimtab.recipe import bind
from workbench import finished_run, quick

__all__ = ["quick"]
FULL = "prune | distill | onnx | quantize @ onnxruntime(threads=2, level='basic')"


def stops(start: str, end: str) -> list[tuple[str, str]]:
    return [(" and ".join(r.changed), str(r.bound)) for r in ladder(bind(f"@ {start}").runtime, bind(end))]


def test_one_choice_after_the_other():
    assert stops("torch", FULL) == [
        ("base", "@ torch"),
        ("runtime", "onnx @ onnxruntime"),
        ("threads", "onnx @ onnxruntime(threads=2)"),
        ("precision", "onnx | quantize @ onnxruntime(threads=2, level='basic')"),
        ("structure", FULL),
    ]


def test_what_does_not_change_has_no_stop():
    assert stops("onnxruntime", "quantize @ onnxruntime") == [
        ("base", "@ onnxruntime"),
        ("precision", "quantize @ onnxruntime"),
    ]
    assert [name for name, _ in stops("onnxruntime(threads=2)", "quantize @ openvino")] == [
        "base",
        "runtime",
        "threads",
        "precision",
    ]


def test_settings_of_pace_go_with_the_runtime_and_others_with_precision():
    assert stops("onnxruntime", "simplify @ openvino(threads=2, static=True, precision='bf16')") == [
        ("base", "@ onnxruntime"),
        ("runtime", "simplify @ openvino(static=True)"),
        ("threads", "simplify @ openvino(threads=2, static=True)"),
        ("precision", "simplify @ openvino(threads=2, static=True, precision='bf16')"),
    ]


def test_what_changes_the_program_is_structure():
    assert stops("onnxruntime", "unroll | simplify @ onnxruntime") == [
        ("base", "@ onnxruntime"),
        ("runtime", "simplify @ onnxruntime"),
        ("structure", "unroll | simplify @ onnxruntime"),
    ]


def test_there_is_no_way_to_a_recipe_without_a_runtime():
    with pytest.raises(Refused, match="names no runtime"):
        ladder(bind("@ torch").runtime, bind("onnx"))


def test_a_finished_run_says_where_its_gain_comes_from():
    result = finished_run().document
    lines = result["gain"]
    assert lines[0]["changed"] == "base"
    assert lines[-1]["recipe"] == result["recipe"]
    product = 1.0
    for line in lines:
        product *= line["factor"]
        assert product == pytest.approx(line["gain"]["value"])
