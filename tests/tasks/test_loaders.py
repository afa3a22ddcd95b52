import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from trimtab.errors import DataError
from trimtab.tasks.loaders import Loaders
from trimtab.values.task import SPLITS


def loader(count, seed, *shape, shuffle=False, classes=3):
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.randn(count, *shape, generator=generator), torch.arange(count) % classes)
    return DataLoader(data, batch_size=7, shuffle=shuffle)


def test_three_loaders_are_the_three_splits():
    task = Loaders(loader(30, 0, 1, 4, 4), loader(12, 1, 1, 4, 4), loader(9, 2, 1, 4, 4))
    assert [len(task.split(name)) for name in SPLITS] == [30, 9, 12]
    batch = task.collate(task.split("train")[:5])
    assert batch.inputs["image"].shape == (5, 1, 4, 4)
    assert batch.targets.dtype == np.int64
    assert task.labels == ("0", "1", "2")


def test_a_loader_that_shuffles_gives_the_same_splits_and_hashes():
    one, other = (Loaders(loader(30, 0, 4, shuffle=True), loader(12, 1, 4, shuffle=True)) for _ in range(2))
    assert [one.fingerprint(name) for name in SPLITS] == [other.fingerprint(name) for name in SPLITS]
    assert [len(one.split(name)) for name in SPLITS] == [24, 6, 12]
    assert len({example.id for name in SPLITS for example in one.split(name)}) == 42


def test_rows_across_loaders_that_are_the_same_are_reported():
    task = Loaders(loader(30, 0, 4), loader(12, 0, 4), loader(9, 2, 4))
    same = len(
        {example.inputs["features"].tobytes() for example in task.split("train")}
        & {example.inputs["features"].tobytes() for example in task.split("test")}
    )
    assert task.describe()["duplicates"]["train/test"] == same > 0


def test_sequences_of_several_lengths_are_padded():
    def batches(seed):
        random = np.random.default_rng(seed)
        for length in (3, 5, 4):
            yield (random.random((6, length, 2)), np.full(6, length)), np.array([0, 1] * 3)

    task = Loaders(list(batches(0)), list(batches(1)))
    assert {len(example.inputs["sequence"]) for example in task.split("train")} == {3, 4, 5}
    assert set(task.split("test")[0].inputs) == {"sequence", "length"}


def test_names_numbers_and_mappings():
    random = np.random.default_rng(0)

    def batch(seed):
        return [({"a": random.random((20, 2)), "b": random.random((20, 3))}, random.random(20))]

    task = Loaders(batch(0), batch(1))
    assert task.objective == "mse"
    assert set(task.split("train")[0].inputs) == {"a", "b"}
    named = Loaders(
        [((random.random((20, 2)), random.random((20, 2))), random.random(20))] * 1, batch(1), names=("a", "b")
    )
    assert named.train is not None
    assert str(named) == "loaders(names=('a', 'b'))", "without the loaders themselves"


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([], [(np.ones((2, 2)), np.array([0, 1]))], "the train split is empty: its loader gives no batch"),
        ([np.ones((2, 2))], [], r"must give \(inputs, targets\), got ndarray"),
        ([(np.ones((2, 2)), np.ones(3))], [], "rows that differ"),
        ([((np.ones((2, 2)), np.ones((2, 2))), np.ones(2))], [], "gives 2 inputs: say names="),
        ([(np.ones((2, 2)), np.ones(2))], [({"other": np.ones((2, 2))}, np.ones(2))], "different inputs"),
    ],
)
def test_loaders_that_cannot_be_used_say_why(train, test, message):
    with pytest.raises(DataError, match=message):
        Loaders(train, test).split("train")
