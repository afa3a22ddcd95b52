import subprocess
import sys

import numpy as np
import pytest

from trimtab.errors import DataError, MissingExtra, RecipeError, UnknownName
from trimtab.tasks import CONTRACT, open_task
from trimtab.tasks.digits import Digits
from trimtab.tasks.mnist5k import Mnist5k
from trimtab.values.registry import registry
from trimtab.values.task import SPLITS, Task

OWN = '''
from dataclasses import dataclass
import numpy as np
from trimtab.tasks.toy import Toy
from trimtab.values.task import Batch, Example, Task

@dataclass(frozen=True)
class Own(Task):
    """The least that a task is."""
    size: int = 4
    name = "own"
    objective = "mse"
    metrics = ()

    def split(self, name):
        return [Example(f"{name}{i}", {"features": np.full(2, i)}, float(i)) for i in range(self.size)]

    def collate(self, examples):
        return Batch({"features": np.stack([e.inputs["features"] for e in examples])}, None)

    def score(self, outputs, batch):
        return np.zeros((len(batch), 1))

ready = Own(7)
number = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("a,y\n" + "".join(f"{row},{row % 2}\n" for row in range(20)))
    (tmp_path / "data (1).csv").write_text((tmp_path / "data.csv").read_text())
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    np.savez(tmp_path / "data.npz", x=np.eye(4))
    return tmp_path


@pytest.mark.parametrize("name", registry("tasks").names())
def test_every_file_is_one_task(name):
    assert issubclass(registry("tasks").take(name), CONTRACT)
    assert registry("tasks").summary(name)


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("toy", "toy"),
        ("toy(30)", "toy(examples=30)"),
        ("digits(1)", "digits(seed=1)"),
        ("digits(seed=1, weights='balanced')", "digits(seed=1, weights=('balanced',))"),
        ("mnist5k(shift=0, seed=2)", "mnist5k(seed=2, shift=0.0)"),
        ("data.csv", "table(path='data.csv')"),
        ("data.csv(target='y')", "table(path='data.csv', target='y')"),
        ("data.csv('y', slices=('a',))", "table(path='data.csv', target='y', slices=('a',))"),
        ("data (1).csv(target='y')", "table(path='data (1).csv', target='y')"),
        ("data (1).csv", "table(path='data (1).csv')"),
        ("table:data.csv(target='y')", "table(path='data.csv', target='y')"),
        ("arrays:data.npz", "arrays(path='data.npz')"),
        ("data.npz", "arrays(path='data.npz')"),
        ("photos", "images(path='photos')"),
        ("photos/(resize=8, flip=True)", "images(path='photos', resize=8, flip=True)"),
    ],
)
def test_a_reference_opens_a_task_whose_text_opens_it_again(here, ref, text):
    task = open_task(ref)
    assert str(task) == text
    assert open_task(str(task)) == task


@pytest.mark.parametrize(
    ("ref", "size"), [("own.py:Own", 4), ("own.py:Own(6)", 6), ("own.py:Own(size=5)", 5), ("own.py:ready", 7)]
)
def test_a_users_own_task_is_run_from_its_file(here, ref, size):
    task = open_task(ref)
    assert isinstance(task, Task)
    assert len(task.split("train")) == size


def test_a_users_own_labelled_task_needs_only_read(here):
    (here / "few.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from trimtab.tasks import Data, Labelled\n\n"
        "@dataclass(frozen=True)\n"
        "class Few(Labelled):\n"
        "    count: int = 20\n"
        "    def read(self):\n"
        "        rows = np.arange(self.count)\n"
        "        return Data({'features': rows[:, None] * 1.0}, rows.astype(str), rows % 2, ('even', 'odd'))\n"
    )
    task = open_task("few.py:Few(30, seed=2)")
    assert str(task) == "few(seed=2, count=30)"
    assert [len(task.split(name)) for name in SPLITS] == [18, 4, 8]
    assert "f1_odd" in {metric.name for metric in task.metrics}


def test_importing_the_contract_loads_no_numpy():
    script = "import sys, trimtab.tasks; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_only_task_of_a_file_needs_no_name(here):
    (here / "own.py").write_text(OWN.replace("ready = Own(7)", ""))
    assert len(open_task("own.py").split("train")) == 4


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("mnist6k", UnknownName, "unknown task 'mnist6k'; did you mean mnist5k"),
        ("dta.csv(target='y')", DataError, r"there is no dta\.csv; did you mean data\.csv"),
        ("nowhere/data.csv", DataError, "there is no nowhere/data.csv"),
        ("table:absent.csv", DataError, r"there is no absent\.csv"),
        ("notes.txt", DataError, r"cannot tell how to read notes\.txt"),
        ("digits(sed=1)", RecipeError, "no argument 'sed'; did you mean seed"),
        ("digits(seed='x')", RecipeError, "seed takes int"),
        ("data.csv(target='y'", RecipeError, r"does not end in '\)'"),
        ("data.csv('y', target='y')", DataError, "gets target twice"),
        ("own.py:Owm", DataError, r"no task 'Owm'; did you mean Own\?; write own.py:NAME"),
        ("own.py:number", DataError, "no task 'number'"),
        ("own.py", DataError, "no task ''"),
        ("absent.py:Own", DataError, r"there is no absent\.py"),
        ("broken.py:Own", DataError, r"broken\.py fails: ZeroDivisionError: division by zero"),
        ("torn.py:Own", DataError, r"torn\.py fails: SyntaxError"),
        ("needy.py:Own", MissingExtra, "needs the library nowhere_to_be_found"),
    ],
)
def test_a_reference_that_opens_nothing_says_why(here, ref, error, message):
    (here / "broken.py").write_text("1 / 0")
    (here / "torn.py").write_text("def (")
    (here / "needy.py").write_text("import nowhere_to_be_found")
    with pytest.raises(error, match=message):
        open_task(ref)


def test_digits_are_the_real_ones():
    task = Digits()
    assert [len(task.split(name)) for name in SPLITS] == [800, 247, 750]
    batch = task.collate(task.split("test"))
    assert batch.inputs["image"].shape == (750, 1, 8, 8)
    assert (batch.inputs["image"].min(), batch.inputs["image"].max()) == (0, 1)
    centres = np.stack([_mean_image(task, digit) for digit in range(10)])
    nearest = ((batch.inputs["image"].reshape(-1, 1, 64) - centres) ** 2).sum(axis=2).argmin(axis=1)
    rows = task.score({"output": np.eye(10)[nearest]}, batch)
    assert task.metric("accuracy").reduce(rows, np.ones((1, 750)))[0] > 0.85
    assert task.fingerprint("test") == "82d0d3daa37eb17c70acbe9b98c94a9953b14a97415d6bc50c072ebf66a3af72"


def _mean_image(task, digit):
    return np.mean([e.inputs["image"].ravel() for e in task.split("train") if e.target == digit], axis=0)


@pytest.mark.slow
def test_mnist5k_is_fetched_balanced_and_the_right_way_up():
    task = Mnist5k()
    assert task.describe()["classes"]["7"] == {"train": 200, "validation": 50, "test": 250}
    assert task.describe()["duplicates"]["train/test"] == 0
    assert task.fingerprint("test") == "2803373042b42d99e9ca832271272f9e3392d3d781628245141acd60f4676745"
    batch = task.collate(task.split("test"))
    assert batch.inputs["image"].shape == (2500, 1, 28, 28)
    image = (batch.inputs["image"] * 0.3081 + 0.1307)[:, 0]
    assert image.min() == pytest.approx(0, abs=1e-6)
    assert image.max() == pytest.approx(1, abs=1e-6)
    seven, six = (image[batch.targets == digit].mean(axis=0) for digit in (7, 6))
    assert seven[:14].sum() > 1.1 * seven[14:].sum()
    assert six[14:].sum() > 1.1 * six[:14].sum()
    centres = np.stack([_mean_image(task, digit) for digit in range(10)])
    nearest = ((batch.inputs["image"].reshape(-1, 1, 784) - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == batch.targets).mean() > 0.75
    moved = task.augment(batch, 3).inputs["image"]
    again = ((moved.reshape(-1, 1, 784) - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (again == batch.targets).mean() > 0.6
