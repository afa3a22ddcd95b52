from pathlib import Path

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.run.frontend import prepare
from trimtab.tasks.arrays import Arrays
from trimtab.values.task import SPLITS

COUNT = 40
X = np.random.default_rng(0).standard_normal((COUNT, 3))
Y = np.arange(COUNT) % 2


def saved(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return str(path)


def test_inputs_keep_their_names_and_take_a_models_types(tmp_path):
    pixels = np.full((COUNT, 1, 2, 2), 255, np.uint8)
    task = Arrays(saved(tmp_path, features=X, tokens=np.ones((COUNT, 2), np.int32), image=pixels, target=Y))
    inputs = task.collate(task.split("train")[:2]).inputs
    assert {name: array.dtype.name for name, array in inputs.items()} == {
        "features": "float32",
        "tokens": "int64",
        "image": "float32",
    }
    assert inputs["image"].max() == 1
    assert task.labels == ("0", "1")


@pytest.mark.parametrize(("scale", "highest"), [(True, 1), (False, 255)])
def test_bytes_are_scaled_unless_the_model_takes_them_as_they_are(tmp_path, scale, highest):
    pixels = np.full((COUNT, 1, 2, 2), 255, np.uint8)
    task = Arrays(saved(tmp_path, image=pixels, target=Y), scale=scale)
    image = task.split("train")[0].inputs["image"]
    assert (image.dtype.name, image.max()) == ("float32", highest)
    raw = {"image": pixels[:1].astype(np.float64)}
    assert prepare(task.frontend(), raw)["image"].max() == highest


def test_everything_known_of_a_row_has_its_name(tmp_path):
    known = {
        "id": [f"r{row}" for row in range(COUNT)],
        "cluster": np.repeat(np.arange(COUNT // 2), 2),
        "slice_sex": ["f", "m"] * 20,
        "labels": ["no", "yes", "never"],
    }
    rows = {"split_train": np.arange(20), "split_validation": np.arange(20, 28), "split_test": np.arange(28, 36)}
    task = Arrays(saved(tmp_path, x=X, target=Y, **known, **rows))
    assert [len(task.split(name)) for name in SPLITS] == [20, 8, 8]
    example = next(example for example in task.split("test") if example.id == "r29")
    assert example.slices == {"class": "yes", "sex": "m"}
    assert example.cluster == "14"


def test_a_label_that_no_row_has_is_still_one_of_the_models_classes(tmp_path):
    task = Arrays(saved(tmp_path, x=X, target=Y, labels=["no", "yes", "never"]), weights="balanced")
    batch = task.collate(task.split("test"))
    assert task.score({"output": np.ones((len(batch), 3))}, batch).shape == (len(batch), 5)
    assert len(task.class_weights) == 3


def test_without_a_target_there_is_agreement_only(tmp_path):
    task = Arrays(saved(tmp_path, x=X))
    assert [metric.name for metric in task.metrics] == ["agreement"]
    assert task.split("test")[0].target is None
    assert task.describe()["classes"] == {}


def test_numbers_in_several_columns_are_a_regression(tmp_path):
    task = Arrays(saved(tmp_path, x=X, target=X[:, :2]))
    batch = task.collate(task.split("test")[:4])
    assert task.score({"output": batch.targets}, batch)[:, 0].tolist() == [0] * 4


def test_python_objects_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"array 'x' of .*data.npz cannot be read \(Python objects are refused\)"):
        Arrays(saved(tmp_path, x=np.array([{}] * 4, dtype=object), target=Y[:4])).split("train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "target": Y[:10]}, r"'target' has 10 rows, not 40: x \[40, 3\], target \[10\]"),
        ({"x": X, "z": X[:3], "target": Y}, "'z' has 3 rows"),
        ({"target": Y}, "must hold an input"),
        ({"x": np.float32(3)}, "one row an example"),
        ({"x": np.where(X > 2, np.nan, X), "target": Y}, "input 'x' is missing or not a finite number"),
        (
            {"x": np.where(np.equal(X, X[7]), 1e39, X), "target": Y},
            "row 7: input 'x' is missing or not a finite number",
        ),
        ({"x": X, "target": np.where(np.equal(X, X[7]), 1e39, X)}, "row 7: the target is missing"),
        ({"x": X.astype(complex), "target": Y}, "array 'x' is complex128; give numbers"),
        ({"x": X.astype(str), "target": Y}, "array 'x' is <U32; give numbers"),
        ({"x": X, "target": np.zeros(COUNT, int)}, "one class only, '0'"),
        ({"x": X, "target": Y, "labels": ["a"]}, "row numbers of it, 0 to 0"),
        (
            {"x": X, "target": Y, "split_train": np.arange(20), "split_test": np.arange(19, 40)},
            "row 19 is in the splits",
        ),
        ({"x": X, "target": Y, "split_train": np.arange(50)}, "row numbers from 0 to 39"),
        ({"x": X, "target": Y, "split_test": np.arange(9)}, "split_validation, split_test; found split_test"),
        (
            {"x": X, "target": Y, "split_train": np.arange(9), "split_val": np.arange(9, 20)},
            "found split_train, split_val",
        ),
        ({"x": X, "target": Y, "split_train": np.array([0.5])}, "row numbers from 0 to 39"),
        ({"x": X, "target": Y, "split_train": np.arange(40)}, "the test split is empty"),
    ],
)
def test_arrays_that_do_not_fit_say_why(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        Arrays(saved(tmp_path, **arrays)).split("train")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_says_so(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        Arrays(str(path)).split("train")


def test_a_torn_archive_says_so(tmp_path):
    path = tmp_path / "data.npz"
    saved(tmp_path, x=X, target=Y)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        Arrays(str(path)).split("train")


def test_a_flipped_byte_is_found(tmp_path):
    path = Path(saved(tmp_path, x=X, target=Y))
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="array 'x' of"):
        Arrays(str(path)).split("train")
