"""The notation: whatever can be written is read back as it was, and what cannot be read says why."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import RecipeError, UnknownName
from trimtab.recipe import bind, check_formats, split_model
from trimtab.values.notation import Recipe, Step

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def steps(arguments: st.SearchStrategy) -> st.SearchStrategy:
    positional = st.lists(arguments, max_size=2).map(tuple)
    return st.builds(Step, names, positional, st.dictionaries(names, arguments, max_size=3))


def chains(step: st.SearchStrategy, least: int) -> st.SearchStrategy:
    return st.builds(Recipe, st.lists(step, min_size=least, max_size=3).map(tuple), st.none() | step)


nested = chains(steps(values), 1)
recipes = chains(steps(st.one_of(values, nested)), 0)


@pytest.mark.slow
@given(recipes)
def test_text_and_data_are_the_same_thing(recipe):
    assert Recipe.parse(str(recipe)) == recipe


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    with contextlib.suppress(RecipeError):
        again = Recipe.parse(text)
        assert Recipe.parse(str(again)) == again


def test_nothing_is_evaluated():
    with pytest.raises(RecipeError):
        Recipe.parse("train(__import__('os').system('true'))")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune(0.5", "not closed"),
        ("prune)", "closes nothing"),
        ("prune(ratio=)", "empty"),
        ("prune(ratio=1, 2)", "after named"),
        ("prune(ratio=1, ratio=2)", "ratio twice"),
        ("a @ b @ c", "one runtime"),
        ("Prune", "not a step name"),
        ("a || b", "not a step name"),
        ("a(b='x)", "quote"),
    ],
)
def test_errors_say_what_is_wrong(text, said):
    with pytest.raises(RecipeError, match=said):
        Recipe.parse(text)


@pytest.mark.parametrize("value", [math.inf, math.nan, object(), Recipe()])
def test_values_that_text_cannot_hold_are_refused(value):
    with pytest.raises(RecipeError):
        Step("prune", (value,))


def test_first_field_may_be_positional_and_words_are_strings():
    bound = bind("quantize(8, method=dynamic)")
    assert str(bound) == "quantize(method='dynamic')"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantize(wieghts=8)", "did you mean weights"),
        ("quantize('eight')", "weights takes int"),
        ("quantize(weights=True)", "weights takes int"),
        ("onnx | fuse(1, 2, 3, 4, 5, 6, 7, 8, 9)", "step 2, fuse takes at most"),
        ("quantize(weights=5)", "step 1, quantize"),
    ],
)
def test_arguments_are_checked_against_the_pass(text, said):
    with pytest.raises(RecipeError, match=said):
        bind(text)


def test_unknown_names_suggest_the_near_one():
    with pytest.raises(UnknownName, match="did you mean quantize"):
        bind("quantise")
    with pytest.raises(UnknownName, match="unknown runtime 'onnxruntim'; did you mean onnxruntime"):
        bind("onnx @ onnxruntim")


def test_steps_that_do_not_fit_say_what_came_and_what_fits():
    message = r"step 2, quantize, takes 'onnx' but step 1 gives 'torch' in recipe: train\(epochs=2\) \| quantize"
    with pytest.raises(RecipeError, match=message):
        check_formats(bind("train(epochs=2) | quantize"), "torch")
    with pytest.raises(RecipeError, match="onnxruntime serves 'onnx' but the model gives 'torch'"):
        check_formats(bind("@ onnxruntime"), "torch")
    assert check_formats(bind("onnx | quantize @ openvino"), "torch") == "onnx"


def test_model_text_splits_into_reference_and_recipe():
    assert split_model("torch:a b.py:net @ torch(threads=2)") == (
        "torch:a b.py:net",
        Recipe.parse("@ torch(threads=2)"),
    )
