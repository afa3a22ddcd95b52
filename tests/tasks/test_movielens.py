import numpy as np
import pytest

import small_data
from trimtab.errors import DataError
from trimtab.tasks.movielens import Movielens


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return small_data.movielens(tmp_path_factory.mktemp("movielens"))


def test_films_of_a_person_are_in_one_split_only(task):
    splits = [task.split(name) for name in ("train", "validation", "test")]
    for train, validation, test in zip(*splits, strict=True):
        assert (len(train.target), len(validation.target), len(test.target)) == (10, 5, 10)
        assert len({*train.target, *validation.target, *test.target}) == 25
        assert train.cluster == validation.cluster == test.cluster
        assert train.slices == test.slices
    assert splits[0][3].slices == {"age": "18-24", "gender": "M"}


def test_targets_are_ones_at_the_films(task):
    batch = task.collate(task.split("test")[:3])
    assert batch.inputs["user"].tolist() == [0, 1, 2]
    assert (batch.targets.shape, batch.targets.dtype) == ((3, 60), np.float32)
    assert np.flatnonzero(batch.targets[1]).tolist() == task.split("test")[1].target


def test_films_known_from_other_splits_are_no_candidates(task):
    batch = task.collate(task.split("test"))
    known = task.collate(task.split("train")).targets + task.collate(task.split("validation")).targets
    rows = task.score({"output": 2 * known + batch.targets}, batch)
    assert rows.mean(axis=0) == pytest.approx([1, 1])


def test_nothing_of_the_test_films_is_known_when_validating(task):
    batch = task.collate(task.split("validation"))
    tests = task.collate(task.split("test")).targets
    rows = task.score({"output": 2 * tests + batch.targets}, batch)
    assert rows.max() == 0


def test_the_seed_decides_which_films_are_held_out(tmp_path, task):
    other = small_data.movielens(tmp_path, seed=1)
    assert [one.target for one in other.split("test")] != [one.target for one in task.split("test")]
    assert str(other) == "movielens(seed=1)"


def test_what_does_not_fit(task):
    with pytest.raises(DataError, match=r"takes a score for each film \[2, 60\], got \[2, 3\]"):
        task.score({"output": np.zeros((2, 3))}, task.collate(task.split("test")[:2]))
    with pytest.raises(DataError, match="below 20 films together"):
        Movielens(test=15)


def test_films_are_named_in_a_bundle_and_the_margin_is_said(task):
    assert task.frontend()["labels"][:2] == ["Film 1 (1991)", "Film 2 (1992)"]
    assert "943 people" in task.describe()["decides"]
