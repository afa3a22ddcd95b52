import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from trimtab.errors import CorruptFile, DataError
from trimtab.run.frontend import fit_columns, fit_scale, prepare, raw_inputs


def run(step, **raw):
    return prepare({"steps": [step]}, raw)


def test_images_go_from_pixels_to_channels_first():
    image = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    steps = [
        {"op": "shape", "input": "image", "shape": [3, 4, 3]},
        {"op": "channels", "input": "image"},
        {"op": "scale", "input": "image", "by": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4], "axis": 1},
    ]
    out = prepare({"steps": steps, "inputs": ["image"]}, {"image": image, "noise": [1, 2]})
    assert list(out) == ["image"]
    assert out["image"].dtype == np.float32
    assert out["image"].flags.c_contiguous
    expected = (image.transpose(0, 3, 1, 2) * 0.5 - np.reshape([1, 2, 3], (1, 3, 1, 1))) / np.reshape(
        [1, 2, 4], (1, 3, 1, 1)
    )
    np.testing.assert_allclose(out["image"], expected, rtol=1e-6)


def test_grey_images_get_one_channel():
    assert run({"op": "channels", "input": "image"}, image=np.zeros((2, 5, 6)))["image"].shape == (2, 1, 5, 6)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=20), st.lists(st.sampled_from("abc"), min_size=3, max_size=20)
)
@settings(max_examples=40, deadline=None)
def test_columns_are_what_scikit_learn_makes_of_them(numbers, letters):
    count = min(len(numbers), len(letters))
    x, word = np.array(numbers[:count]), np.array(letters[:count])
    step = json.loads(json.dumps(fit_columns({"x": x, "word": word}, ["x"], ["word"])))
    got = run(step, x=x, word=word)["features"]
    onehot = OneHotEncoder(sparse_output=False).fit_transform(word[:, None])
    np.testing.assert_array_equal(got[:, 1:], onehot)
    if x.std() > 1e-6:
        np.testing.assert_allclose(got[:, 0], StandardScaler().fit_transform(x[:, None])[:, 0], atol=1e-4)


def test_a_word_never_seen_is_all_zeros_and_only_the_most_frequent_are_kept():
    step = fit_columns({"w": np.array(["a", "b", "b", "c", "c"])}, [], ["w"], most=2)
    assert run(step, w=["c", "a", "new"])["features"].tolist() == [[0, 1], [0, 0], [0, 0]]


def test_a_constant_column_becomes_zeros():
    step = fit_columns({"x": np.ones(4)}, ["x"], [])
    assert run(step, x=[1, 1])["features"].tolist() == [[0], [0]]


def test_lists_become_a_padded_sequence_whose_padding_stays_zero():
    steps = [
        {"op": "sequence", "inputs": ["a", "b"], "output": "sequence", "length": "length"},
        {"op": "scale", "input": "sequence", "mean": [1, 1], "std": [2, 1], "axis": -1, "length": "length"},
    ]
    out = prepare({"steps": steps}, {"a": [[3, 5], [7]], "b": [[1, 2], [3]]})
    assert out["sequence"].tolist() == [[[1, 0], [2, 1]], [[3, 2], [0, 0]]]
    assert out["length"].tolist() == [2, 1]
    assert out["sequence"].dtype == np.float32
    assert out["length"].dtype == np.int64


def test_scale_is_learnt_along_all_but_one_axis():
    image = np.random.default_rng(0).normal([1, 5], [2, 3], (50, 6, 2)).transpose(0, 2, 1)
    out = run({"op": "scale", "input": "x", **fit_scale(image, axis=1)}, x=image)["x"]
    np.testing.assert_allclose(out.mean(axis=(0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(0, 2)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "raw", "error", "message"),
    [
        ({"op": "scael", "input": "x"}, {"x": [1]}, CorruptFile, "did you mean scale"),
        ({}, {"x": [1]}, CorruptFile, "unknown frontend step None"),
        ({"op": "shape", "input": "x"}, {"x": [1]}, CorruptFile, "'shape' has no 'shape'"),
        ({"op": "scale", "input": "image"}, {"imag": [1]}, DataError, "'image' is absent; did you mean imag"),
        ({"op": "scale", "input": "x"}, {"x": ["a"]}, DataError, "must hold numbers"),
        ({"op": "scale", "input": "x", "mean": [1, 2, 3], "axis": 1}, {"x": [[1, 2]]}, DataError, "does not fit"),
        ({"op": "shape", "input": "x", "shape": [2]}, {"x": [[1, 2, 3]]}, DataError, r"shape \[2\], got \[3\]"),
        ({"op": "channels", "input": "x"}, {"x": [[1, 2, 3]]}, DataError, "2 axes"),
        (
            fit_columns({"x": np.ones(2), "y": np.ones(2)}, ["x", "y"], []),
            {"x": [1], "y": [1, 2]},
            DataError,
            "'columns'",
        ),
        (fit_columns({"x": np.ones(2)}, ["x"], []), {"x": [1, np.nan]}, DataError, "'x' has no number in row 1"),
    ],
)
def test_what_does_not_fit_is_said(step, raw, error, message):
    with pytest.raises(error, match=message):
        run(step, **raw)


@pytest.mark.parametrize(
    "steps",
    [
        None,
        5,
        ["scale"],
        [5],
        [{"op": ["scale"]}],
        [{"op": "scale", "input": "x", "mean": "x"}],
        [{"op": "scale", "input": "x", "std": [None]}],
        [{"op": "scale", "input": "x", "axis": "1"}],
        [{"op": "scale", "input": 5}],
        [{"op": "shape", "input": "x", "shape": "ab"}],
        [{"op": "cast", "input": "x", "dtype": "int7"}],
        [{"op": "cast", "input": "x", "dtype": "object"}],
        [{"op": "columns", "output": "f", "numeric": [5], "categorical": []}],
        [{"op": "columns", "output": "f", "numeric": [{"name": "x", "mean": "a", "std": 1}], "categorical": []}],
        [{"op": "columns", "output": "f", "numeric": [], "categorical": [{"name": "x", "values": 3}]}],
        [{"op": "sequence", "inputs": "x", "output": "s", "length": "n"}],
    ],
)
def test_a_malformed_frontend_is_a_corrupt_file(steps):
    with pytest.raises(CorruptFile, match="frontend"):
        prepare({"steps": steps}, {"x": np.ones((2, 3))})
    with pytest.raises(CorruptFile, match="frontend"):
        raw_inputs({"steps": steps})


@pytest.mark.parametrize(
    ("step", "column"),
    [
        ({"op": "cast", "input": "x", "dtype": "float32"}, [1.0, 1e39]),
        ({"op": "scale", "input": "x", "std": 1e-30}, [1.0, 1e20]),
        (
            {"op": "columns", "output": "f", "numeric": [{"name": "x", "mean": 0, "std": 1}], "categorical": []},
            [1, 1e39],
        ),
        ({"op": "sequence", "inputs": ["x"], "output": "s", "length": "n"}, [[1.0], [1e39]]),
    ],
)
def test_a_number_that_float32_cannot_hold_is_named(step, column):
    with pytest.raises(DataError, match=r"row 1: .*x"):
        run(step, x=column)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1j])
def test_what_is_no_whole_number_is_not_cast_to_one(value):
    with pytest.raises(DataError, match="'x' must hold numbers"):
        run({"op": "cast", "input": "x", "dtype": "int64"}, x=[1, value])


@pytest.mark.parametrize("lists", [[[1], []], [[1], ["x"]], [[1], [np.nan]]])
def test_lists_without_numbers_are_refused_by_row(lists):
    with pytest.raises(DataError, match="row 1"):
        run({"op": "sequence", "inputs": ["a"], "output": "s", "length": "l"}, a=lists)


def test_an_output_that_no_step_makes_is_absent():
    with pytest.raises(DataError, match="'features' is absent"):
        prepare({"steps": [], "inputs": ["features"]}, {"x": [1]})


def test_enlarging_is_what_torch_does():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((2, 1, 5, 7), np.float32)
    got = run({"op": "resize", "input": "image", "size": [12, 9]}, image=image)["image"]
    expected = torch.nn.functional.interpolate(torch.from_numpy(image), (12, 9), mode="bilinear").numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_grey_becomes_three_colours():
    image = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    got = run({"op": "repeat", "input": "image", "times": 3}, image=image)["image"]
    assert got.shape == (2, 3, 2, 2)
    assert np.array_equal(got[:, 2], image[:, 0])


def test_letters_become_places_and_a_stop():
    step = {"op": "letters", "input": "word", "alphabet": ["", "?", ".", "a", "b"], "unknown": 1, "stop": 2}
    step |= {"output": "letters", "length": "length"}
    assert raw_inputs({"steps": [step], "inputs": ["letters", "length"]}) == ["word"]
    got = run(step, word=["ab", "x", ""])
    assert got["letters"].tolist() == [[3, 4, 2], [1, 2, 0], [2, 0, 0]]
    assert got["length"].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    "step",
    [
        {"op": "resize", "input": "x", "size": [0, 4]},
        {"op": "resize", "input": "x", "size": [4]},
        {"op": "repeat", "input": "x", "times": "3"},
        {"op": "letters", "input": "x", "alphabet": [1], "unknown": 1, "stop": 2, "output": "y", "length": "n"},
    ],
)
def test_steps_of_images_and_words_that_do_not_fit(step):
    with pytest.raises(CorruptFile, match=r"frontend step .* cannot have"):
        run(step, x=np.zeros((1, 1, 2, 2)))


FRAMES = {"op": "frames", "input": "signal", "size": 4, "context": 2, "output": "sequence", "length": "length"}


def test_frames_begin_with_the_end_of_the_frame_before():
    found = prepare({"steps": [FRAMES], "inputs": ["sequence", "length"]}, {"signal": [np.arange(1, 6), np.arange(4)]})
    assert found["length"].tolist() == [2, 1]
    assert found["sequence"].tolist() == [
        [[0, 0, 1, 2, 3, 4], [3, 4, 5, 0, 0, 0]],
        [[0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0]],
    ]
    assert raw_inputs({"steps": [FRAMES], "inputs": ["sequence", "length"]}) == ["signal"]


@pytest.mark.parametrize("signal", [[[]], [[1.0, np.nan]], [["a"]]])
def test_signals_that_are_no_samples(signal):
    with pytest.raises(DataError, match="row 0: signal must"):
        prepare({"steps": [FRAMES]}, {"signal": signal})


def test_frames_of_no_size():
    with pytest.raises(CorruptFile, match="cannot have '0' as its 'size'"):
        prepare({"steps": [{**FRAMES, "size": 0}]}, {"signal": [[1.0]]})
