"""The verbs in Python, on text, on objects, and on the user's own module and loaders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trimtab
from trimtab.api import Result, given_model, given_task, parse_duration, read_result
from trimtab.errors import CorruptFile, DataError, PromiseError, UnknownName, UsageError
from trimtab.tasks import open_task
from trimtab.values.store import Store
from workbench import PROMISE, TOY, finished_run, quick

__all__ = ["quick"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.mark.slow
def test_text_or_a_task_of_ones_own_give_the_same_choice(tmp_path, store):
    shared = {"within": "2m", "objective": "size", "train": False, "store": store}
    by_text = trimtab.trim("null:linear", TOY, PROMISE, tmp_path / "a", tries="narrow(32) @ null", **shared)
    by_task = trimtab.trim("null:linear", open_task(TOY), [PROMISE], tmp_path / "b", limits="size_mb <= 1", **shared)
    assert by_text.verdict == by_task.verdict == "PASS"
    assert by_text.recipe == by_task.recipe == "narrow @ null"
    assert by_text.report.is_file()
    assert by_task.document["limits"] == ["size_mb <= 1"]
    with trimtab.load(by_text.bundle) as bundle:
        assert bundle.predict(np.zeros((2, 64), np.float32))["output"].shape == (2, 3)


@pytest.mark.slow
def test_a_result_without_a_bundle_says_none():
    assert Result({**finished_run().document, "bundle": ""}).bundle is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1e3", 1000), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("1d", 86400), (" 2 m ", 120)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "0s", "5 minutes", "inf", "nan", "5m5s"])
def test_what_is_no_duration_says_how_one_looks(text):
    with pytest.raises(UsageError, match=r"90s, 5m, 2h|not above 0"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"objectiv": "size"}, UnknownName, "did you mean objective"),
        ({"promise": ()}, PromiseError, "needs a promise"),
        ({"promise": "accuracy"}, PromiseError, "cannot read the promise"),
        ({"model": 3}, UsageError, "model is a int"),
        ({"task": 3}, UsageError, "task is a int"),
        ({"task": ([], [])}, DataError, "gives no batch"),
        ({"task": ([], [], [], [])}, UsageError, "task is a tuple"),
        ({"seed": -1}, UsageError, "seed is a whole number"),
        ({"confidence": 95}, UsageError, "between 0.5 and 0.999"),
        ({"memory_limit_mb": float("nan")}, UsageError, "memory limit"),
        ({"within": "soon"}, UsageError, "is no duration"),
        ({"limits": "small"}, PromiseError, "cannot read the limit 'small'"),
        ({"tries": "narow @ null"}, UnknownName, "did you mean narrow"),
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path, store, change, error, said):
    given = {"model": "null:linear", "task": TOY, "promise": PROMISE, "out": tmp_path / "x", "store": store}
    with pytest.raises(error, match=said) as told:
        trimtab.trim(**given | change)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "x").exists()


def test_paths_and_text_stay_text():
    assert given_model("zoo:mlp") == "zoo:mlp"
    assert given_model(Path("a/b")) == "a/b"
    assert given_task(Path("a.csv")) == "a.csv"
    task = open_task(TOY)
    assert given_task(task) is task


def test_a_finished_run_is_read_back_and_a_damaged_one_refused(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run().document["run"], run)
    assert read_result(run) == finished_run().document
    for text in ("", "[]", "{}", json.dumps({"verdict": "PASS"})):
        (run / "result.json").write_text(text)
        with pytest.raises(CorruptFile, match="is not a result"):
            read_result(run)
    (run / "result.json").unlink()
    with pytest.raises(UsageError, match="repeat its command"):
        read_result(run)
    with pytest.raises(UsageError, match="no run"):
        read_result(tmp_path / "gone")


ASK = """
import sys, numpy, trimtab
with trimtab.load(sys.argv[1]) as bundle:
    numpy.save(sys.argv[3], bundle.predict(numpy.load(sys.argv[2]))["output"])
"""


@pytest.mark.slow
def test_ones_own_module_and_loaders_in_five_lines(tmp_path, store):
    torch = pytest.importorskip("torch")

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(6, 128), torch.nn.Linear(128, 2)

        def forward(self, features):
            return self.two(torch.relu(self.one(features)))

    def loader(count, seed):
        points = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
        return torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(points, (points.sum(1) > 0).long()), batch_size=50
        )

    torch.manual_seed(0)
    train, test, model = loader(600, 1), loader(600, 2), Own()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for points, targets in [*train] * 5:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(points), targets).backward()
        optimizer.step()
    weights = [value.clone() for value in model.state_dict().values()]

    result = trimtab.trim(
        model, (train, test), "accuracy >= base - 0.05", tmp_path / "x", within="2m", train=False, store=store
    )
    assert result.verdict == "PASS"
    assert all(torch.equal(old, new) for old, new in zip(weights, model.state_dict().values(), strict=True))

    points, targets = next(iter(test))
    np.save(tmp_path / "in.npy", points.numpy())
    words = [sys.executable, "-c", ASK, str(result.bundle), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run(words, cwd=tmp_path, check=True)
    answer = np.load(tmp_path / "out.npy")
    assert (answer.argmax(1) == targets.numpy()).mean() > 0.9
    np.testing.assert_allclose(answer, model(points).detach().numpy(), atol=0.5)
