import json
import subprocess
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError, UnknownName
from trimtab.tasks._data import Data, encoded
from trimtab.tasks._labelled import Labelled
from trimtab.tasks._splits import cut
from trimtab.tasks.toy import Toy
from trimtab.values.task import SPLITS


@dataclass(frozen=True, eq=False)
class Given(Labelled):
    """A task on rows written in the test."""

    data: Data = field(default=None)
    movement: dict = field(default_factory=dict)

    @property
    def augmentation(self):
        return self.movement

    def read(self):
        return self.data


def rows(count=60, classes=2, **others):
    random = np.random.default_rng(0)
    known = {
        "inputs": {"features": random.standard_normal((count, 3)).astype(np.float32)},
        "ids": np.arange(count).astype(str),
        "targets": np.arange(count) % classes,
        "labels": tuple("abcdefgh"[:classes]),
    }
    return Data(**(known | others))


def ids(task, name):
    return [example.id for example in task.split(name)]


def test_splits_are_disjoint_complete_balanced_and_the_same_again():
    first, again, other = (Given(data=rows(), seed=seed) for seed in (3, 3, 4))
    everyone = [name for split in SPLITS for name in ids(first, split)]
    assert sorted(everyone, key=int) == list(map(str, range(60)))
    assert [len(first.split(name)) for name in SPLITS] == [36, 9, 15]
    assert [ids(first, name) for name in SPLITS] == [ids(again, name) for name in SPLITS]
    assert ids(first, "train") != ids(other, "train")
    assert sum(example.target for example in first.split("train")) == 18


def test_split_hashes_are_the_same_in_another_process():
    script = "from trimtab.tasks.toy import Toy; print(*(Toy(examples=90).fingerprint(n) for n in ('train', 'test')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    task = Toy(examples=90)
    assert done.stdout.split() == [task.fingerprint("train"), task.fingerprint("test")]
    assert task.describe()["splits"]["test"] == task.fingerprint("test")


@given(
    st.lists(st.integers(0, 3), min_size=20, max_size=60),
    st.integers(0, 5),
    st.lists(st.integers(0, 15), min_size=60, max_size=60),
)
@settings(max_examples=40, deadline=None)
def test_a_cut_keeps_units_whole_and_loses_no_row(strata, seed, units):
    count = len(strata)
    units = np.array(units[:count]).astype(str)
    pieces = cut(np.arange(count), units, np.array(strata), seed, (0.5, 0.2, 0.3))
    assert sorted(np.concatenate(pieces)) == list(range(count))
    homes = [{units[row] for row in piece} for piece in pieces]
    assert sum(map(len, homes)) == len({*units})


@given(st.lists(st.integers(0, 3), min_size=30, max_size=200), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_cut_spreads_every_class_to_within_one_row_a_class(strata, seed):
    strata, shares = np.array(strata), np.array([0.5, 0.2, 0.3])
    pieces = cut(np.arange(len(strata)), np.arange(len(strata)), strata, seed, shares)
    assert len(pieces[0]) == round(0.5 * len(strata))
    for value in np.unique(strata):
        counts = np.array([(strata[piece] == value).sum() for piece in pieces])
        assert (abs(counts - shares * (strata == value).sum()) <= 2).all()


def test_rows_with_a_missing_value_are_an_error_that_says_where_or_dropped():
    features = rows().inputs["features"].copy()
    features[7, 1] = np.nan
    data = rows(inputs={"features": features})
    with pytest.raises(DataError, match=r"row 7: input 'features' is missing.*\(1\) with clean='drop'"):
        Given(data=data).split("train")
    task = Given(data=data, clean="drop")
    assert task.describe()["cleaning"] == {"read": 60, "missing": 1, "duplicates": 0}
    assert sum(task.describe()["sizes"].values()) == 59


def test_a_missing_target_is_found():
    targets = np.arange(60) % 2
    targets[3] = -1
    with pytest.raises(DataError, match="row 3: the target is missing"):
        Given(data=rows(targets=targets)).split("train")


def test_duplicates_across_splits_are_counted_and_dropped_on_request():
    features = rows().inputs["features"].copy()
    features[10:20] = features[0]
    split = np.array(["train"] * 15 + ["validation"] * 20 + ["test"] * 25)
    data = rows(inputs={"features": features}, given=split)
    found = Given(data=data).describe()["duplicates"]
    assert found == {
        "train/validation": 5,
        "train/test": 0,
        "validation/test": 0,
        "within": 5 + 4,
        "contradicting": 1,
    }
    cleaned = Given(data=data, unique=True).describe()
    assert cleaned["cleaning"]["duplicates"] == 10
    assert not any(cleaned["duplicates"].values())
    assert "0" in ids(Given(data=data, unique=True), "train")


def test_class_weights_balance_or_are_taken_as_given():
    targets = np.array([0] * 40 + [1] * 20)
    data = rows(targets=targets)
    assert Given(data=data, weights=("balanced",)).class_weights == Given(data=data, weights="balanced").class_weights
    assert Given(data=data, weights="balanced").class_weights == pytest.approx((0.75, 1.5))
    assert Given(data=data, weights=(1, 3.0)).class_weights == (1, 3)
    assert Given(data=data).class_weights is None
    for wrong in ((1.0,), (1.0, -1.0), ("even",)):
        with pytest.raises(DataError, match="one above 0 for each class of a, b"):
            _ = Given(data=data, weights=wrong).class_weights


def test_examples_carry_their_class_groups_and_cluster():
    data = rows(slices={"sex": np.array(["f", "m"] * 30)}, clusters=np.repeat(np.arange(20), 3).astype(str))
    task = Given(data=data)
    example = task.split("test")[0]
    assert example.slices == {"class": "ab"[int(example.id) % 2], "sex": "fm"[int(example.id) % 2]}
    assert example.cluster == str(int(example.id) // 3)
    homes = [{example.cluster for example in task.split(name)} for name in SPLITS]
    assert sum(map(len, homes)) == 20
    assert task.split("test")[-1].id == task.split("test")[len(task.split("test")) - 1].id
    assert [e.id for e in task.split("test")[:2]] == ids(task, "test")[:2]
    with pytest.raises(IndexError):
        task.split("test")[10_000]


def test_given_splits_without_validation_take_it_off_train():
    given = np.array(["train"] * 40 + ["test"] * 15 + [""] * 5)
    task = Given(data=rows(given=given))
    assert [len(task.split(name)) for name in SPLITS] == [32, 8, 15]
    assert set(ids(task, "test")) == set(map(str, range(40, 55)))


def test_scores_are_rows_in_order_for_classes_and_numbers():
    task = Given(data=rows())
    batch = task.collate(task.split("test")[:4])
    logits = np.eye(2)[batch.targets]
    assert task.score({"output": logits, "more": logits[:1]}, batch)[:, 2].tolist() == [1, 1, 1, 1]
    with pytest.raises(DataError, match=r"2 scores an example are needed, got \[3\]"):
        task.score({"logits": np.zeros((4, 3))}, batch)
    numbers = Given(data=rows(targets=np.arange(60.0, dtype=np.float32), labels=()))
    batch = numbers.collate(numbers.split("test")[:4])
    assert numbers.objective == "mse"
    assert numbers.score({"y": batch.targets[:, None] + 2}, batch)[:, 0].tolist() == [4, 4, 4, 4]
    with pytest.raises(UnknownName, match="known: mae, mse"):
        numbers.metric("agreement")


def test_data_without_labels_offers_agreement_alone():
    task = Given(data=rows(targets=None, labels=()))
    batch = task.collate(task.split("test")[:3])
    assert batch.targets is None
    assert [metric.name for metric in task.metrics] == ["agreement"]
    scored = task.score({"output": np.eye(3)}, batch)
    assert task.metrics[0].values(np.hstack([scored, scored])).tolist() == [1, 1, 1]
    near = Given(data=rows(targets=None, labels=()), tolerance=0.5)
    pairs = np.hstack([near.score({"output": np.full(3, value)}, batch) for value in (1.0, 1.4)])
    assert near.metrics[0].values(pairs).tolist() == [1, 1, 1]


def test_one_number_an_answer_agrees_with_nothing_unless_a_tolerance_is_said():
    task = Given(data=rows(targets=None, labels=()))
    batch = task.collate(task.split("test")[:3])
    for output in (np.zeros((3, 1)), np.zeros(3)):
        with pytest.raises(DataError, match="one number an example, and there are no labels: say tolerance=NUMBER"):
            task.score({"output": output}, batch)


def test_weights_are_for_classes():
    numbers = np.linspace(0, 1, 60)
    for data in (rows(targets=numbers, labels=()), rows(targets=None, labels=())):
        with pytest.raises(DataError, match="weights are for classes, and given has none"):
            assert Given(data=data, weights=("balanced",)).class_weights


def test_sequences_are_cut_to_their_length_and_padded_in_the_batch():
    sequence = np.zeros((60, 9, 2), np.float32)
    length = 1 + np.arange(60) % 4
    task = Given(data=rows(inputs={"sequence": sequence + 1, "length": length}))
    examples = task.split("train")[:8]
    assert all(len(example.inputs["sequence"]) == example.inputs["length"] for example in examples)
    batch = task.collate(examples)
    assert batch.inputs["sequence"].shape == (8, max(batch.inputs["length"]), 2)
    assert (batch.inputs["sequence"].sum(axis=(1, 2)) == 2 * batch.inputs["length"]).all()


def test_large_inputs_are_prepared_one_by_one_to_the_same_result(monkeypatch):
    steps = ({"op": "scale", "input": "features", "by": 3},)
    whole = Given(data=rows(fit=lambda train: steps))
    wanted = whole.collate(whole.split("test")[:5]).inputs["features"]
    monkeypatch.setattr("trimtab.tasks._data.READY_BYTES", 0)
    single = Given(data=rows(fit=lambda train: steps))
    np.testing.assert_array_equal(single.collate(single.split("test")[:5]).inputs["features"], wanted)


def test_augmentation_moves_images_repeatably_and_nothing_else():
    image = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
    task = Given(data=rows(inputs={"image": image}), movement={"shift": 2, "degrees": 9, "flip": True})
    batch = task.collate(task.split("train")[:6])
    once, again, other = (task.augment(batch, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once.inputs["image"], again.inputs["image"])
    assert not np.array_equal(once.inputs["image"], other.inputs["image"])
    assert once.inputs["image"].dtype == np.float32
    assert once.inputs["image"].min() >= image.min()
    assert once.ids == batch.ids
    still = replace(task, movement={})
    assert still.augment(batch, 1) is batch
    assert Toy().augment(batch, 1) is batch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": np.zeros(60, int)}, "one class only, 'a'"),
        ({"targets": np.array([0] * 59 + [1])}, "class 'b' has none of its 1 rows in"),
        ({"ids": np.array(["x", "x", *map(str, range(58))])}, "'x' stands 2 times; it must"),
        ({"given": np.array(["train"] * 60)}, "the test split is empty"),
        ({"given": np.array(["test"] * 60)}, "the train split is empty"),
        ({"given": np.array(["train", "dev"] * 30)}, "split 'dev' is unknown"),
        ({"slices": {"sex": np.array(["f"] * 3)}}, "slice 'sex' has 3 rows, the others have 60"),
        ({"inputs": {}}, "the data is empty"),
        (
            {"given": np.array(["train", "test"] * 30), "clusters": np.repeat(np.arange(30), 2).astype(str)},
            "cluster '.*' is in the splits .* and .*: they overlap",
        ),
        (
            {"given": np.array(["train", "test"] * 30), "ids": np.repeat(np.arange(30), 2).astype(str)},
            "in the splits test and train: splits may not overlap",
        ),
        ({"given": np.array(["train", "test"] * 30)}, "class 'b' has none of its 30 rows in train"),
    ],
)
def test_data_that_cannot_be_used_says_why(changes, message):
    with pytest.raises(DataError, match=message):
        Given(data=rows(**changes)).split("train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": (0.5, 0.5)}, "three numbers"),
        ({"shares": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"clean": "x"}, "'drop'"),
    ],
)
def test_arguments_are_checked_at_once(arguments, message):
    with pytest.raises(DataError, match=message):
        Toy(**arguments)


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        (np.array(["b", "a", ""]), "", ("a", "b")),
        (np.array([10, 2, 2]), "", ("2", "10")),
        (np.array([1.0, 2.0, np.nan]), "", ("1", "2")),
        (np.array([True, False]), "", ("False", "True")),
        (np.array([0.5, 1.0]), "", ()),
        (np.arange(30), "", ()),
        (np.arange(30), "classification", tuple(map(str, range(30)))),
        (np.array([1, 2]), "regression", ()),
    ],
)
def test_a_target_is_read_as_classes_or_numbers(values, kind, labels):
    targets, found = encoded(values, kind)
    assert found == labels
    if labels:
        assert labels[targets[0]] == str(values[0]).removesuffix(".0")


def test_a_target_that_cannot_be_read_says_why():
    with pytest.raises(DataError, match="text such as 'a'"):
        encoded(np.array(["a"]), "regression")
    with pytest.raises(DataError, match="takes 'classification' or"):
        encoded(np.array([1]), "ranking")
    with pytest.raises(DataError, match=r"shape \[2, 2\]"):
        encoded(np.ones((2, 2)), "classification")
    with pytest.raises(DataError, match="got complex"):
        encoded(np.array([1j]))


def test_the_description_is_json_and_complete():
    described = json.loads(json.dumps(Toy().describe()))
    assert described["sizes"] == {"train": 360, "validation": 90, "test": 150}
    assert described["classes"]["0"] == {"train": 120, "validation": 30, "test": 50}
    assert set(described["splits"]) == set(SPLITS)
    assert described["task"] == "toy"
    assert described["objective"] == "cross_entropy"
