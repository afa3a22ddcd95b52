"""What the store's keys depend on, and what they do not; shared work is done once; results are never half written."""

import errno
import os
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_texts import Sentences
from trimtab import apply as applying
from trimtab.apply import Workshop, apply_recipe, digest, folder_hash
from trimtab.errors import DataError, OutputError, RecipeError, Refused, UsageError
from trimtab.machines import here
from trimtab.recipe import bind
from trimtab.tasks import open_task
from trimtab.values.store import Store
from workbench import TOY, Narrow, Stem, quick

__all__ = ["quick"]
STEM = "stem(bits=32) | narrow(bits=16)"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def shop(store):
    Narrow.applied.clear()
    return Workshop(open_task(TOY), store, here())


def key(shop: Workshop, recipe: str) -> str:
    """Return the key of a recipe's result."""
    made = shop.open("null:linear")
    return shop.apply(made, bind(recipe).passes, made).key


def test_the_same_is_made_once_and_then_found(shop):
    first = shop.apply(shop.open("null:linear"), bind(STEM).passes)
    again = shop.apply(shop.open("null:linear"), bind(STEM).passes)
    assert (again.key, again.folder, again.seconds) == (first.key, first.folder, 0.0)
    assert again.model.lineage == ("null:linear", "stem", "narrow")
    assert Narrow.applied == [32, 16]
    assert first.seconds >= first.trained_seconds > 0


def test_recipes_share_a_trained_stem(shop):
    made = shop.open("null:linear")
    for last in ("narrow(bits=16)", "narrow(bits=32)", "narrow(bits=8)"):
        shop.apply(made, bind(f"stem | {last}").passes, made)
    assert Narrow.applied == [32, 16, 32, 8]
    assert shop.peek(made, bind("stem | narrow(bits=8)").passes, made) == 2
    assert shop.peek(made, bind("stem | narrow(bits=0)").passes, made) == 1
    assert shop.peek(made, bind("narrow(bits=0) | stem").passes, made) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "change", "differs"),
    [
        ("stem", {"seed": 1}, True),
        ("narrow", {"seed": 1}, False),
        ("stem", {"threads": 2}, True),
        ("narrow", {"threads": 2}, False),
        ("narrow", {"machine": replace(here(), cores=99)}, False),
        ("stem", {"machine": replace(here(), cores=99)}, False),
        ("narrow", {"deadline": 1e12}, False),
        ("narrow", {"task": TOY.replace("0.7", "0.8")}, True),
        ("narrow", {"task": TOY.replace(")", ", seed=3)")}, True),
        ("stem", {"task": TOY.replace(")", ", weights='balanced')")}, True),
    ],
)
def test_a_key_changes_with_what_the_result_depends_on(shop, recipe, change, differs):
    before = key(shop, recipe)
    if "task" in change:
        change = {"task": open_task(change["task"])}
    after = key(replace(shop, **change), recipe)
    assert (before != after) == differs


TASK = """
from help_of_mine import name

from trimtab.tasks.toy import Toy

class Mine(Toy):
    def __str__(self):
        return name
"""


def test_a_key_changes_with_what_the_users_task_imports(shop, tmp_path):
    (tmp_path / "help_of_mine.py").write_text("name = 'one'\n")
    (tmp_path / "mine.py").write_text(TASK)
    found = []
    for more in ("", "# changed\n", "# changed again\n"):
        (tmp_path / "help_of_mine.py").write_text(f"name = 'one'\n{more}")
        found.append(replace(shop, task=open_task(f"{tmp_path}/mine.py:Mine(examples=300)")).task_code)
    assert len({*found}) == 3
    assert replace(shop, task=open_task(f"{tmp_path}/mine.py:Mine(examples=301)")).task_code != found[-1]
    assert shop.task_code == ""


@pytest.mark.parametrize("module", ["__main__", "typed_in_here"])
def test_the_code_of_a_task_that_no_file_has_is_read_in_memory(shop, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))

    def typed(text: str) -> str:
        space = {"__name__": module}
        exec(text, space)  # noqa: S102
        return replace(shop, task=space["Mine"](examples=300)).task_code

    text = TASK.replace("from help_of_mine import name", "name = 'one'")
    assert typed(text) == typed(f"# said\n{text}")
    assert typed(text) != typed(text.replace("'one'", "'two'"))
    assert typed(text) != typed(text.replace("return name", "return name + name"))


def test_a_model_carries_the_preparation_of_its_own_task(shop, tmp_path):
    rng = np.random.default_rng(0)
    tasks = []
    for number in (1, 100):
        rows = [f"{number * a:.3f},{b:.3f},{'xy'[i % 2]}" for i, (a, b) in enumerate(rng.normal(size=(60, 2)))]
        (tmp_path / f"{number}.csv").write_text("\n".join(["a,b,label", *rows]))
        tasks.append(open_task(f"{tmp_path}/{number}.csv(target='label')"))
    assert tasks[0].frontend() != tasks[1].frontend()
    for task in tasks:
        assert replace(shop, task=task).open("null:linear").model.frontend == task.frontend()


@pytest.mark.parametrize("recipe", ["stem(bits=16)", "narrow | stem", "narrow", "narrow(bits=32)"])
def test_a_key_changes_with_every_argument_and_the_order(shop, recipe):
    assert key(shop, recipe) != key(shop, "stem | narrow")
    assert key(shop, recipe) == key(shop, str(bind(recipe)))


def test_a_key_changes_with_versions(shop, monkeypatch):
    before = key(shop, "stem")
    monkeypatch.setattr(Stem, "version", Stem.version + 1)
    after = key(shop, "stem")
    assert after != before
    monkeypatch.setattr(applying, "versions", lambda names: {"numpy": "9"})
    assert key(shop, "stem") not in (before, after)


def test_a_key_changes_with_the_version_of_a_pass_inside_a_pass(shop, monkeypatch):
    plain = key(shop, "narrow")
    monkeypatch.setattr(Narrow, "inner", lambda self: "stem" if type(self) is Narrow else "")
    before = key(shop, "narrow")
    monkeypatch.setattr(Stem, "version", Stem.version + 1)
    assert len({plain, before, key(shop, "narrow")}) == 3


@given(st.lists(st.one_of(st.integers(), st.text(), st.booleans(), st.none()), max_size=4))
def test_a_digest_tells_things_apart(things):
    assert digest(*things) == digest(*things)
    assert digest(*things) != digest(*things, "more")
    assert digest(things) != digest(*things, 1, 2)


def test_a_digest_refuses_what_json_cannot_say():
    with pytest.raises(TypeError, match="part of a key"):
        digest(object())


def test_a_pass_that_refuses_says_why_and_leaves_nothing(shop, monkeypatch):
    monkeypatch.setattr(Narrow, "refuses", lambda self, model, machine: "too thin already")
    with pytest.raises(Refused, match="narrow: too thin already"):
        key(shop, "narrow")
    assert Narrow.applied == []


def test_a_base_that_does_not_take_the_longest_inputs_is_not_opened(store, make_onnx, tmp_path):
    """A graph with a table of four places: two sentences have five words, and one of the sealed split has nine."""
    nodes = [
        ("Shape", "ids", "shape", {}),
        ("Gather", "shape one", "length", {"axis": 0}),
        ("Range", "zero length one", "range", {}),
        ("Gather", "places range", "chosen", {}),
        ("Gather", "words ids", "said", {}),
        ("Add", "said chosen", "sum", {}),
        ("ReduceMax", "sum", "output", {"axes": [1], "keepdims": 0}),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "places": np.ones((4, 3), np.float32)}
    constants["words"] = np.ones((3, 3), np.float32)
    specs = [("ids", "int64", ["batch", "time"])], [("output", "float32", ["batch", 3])]
    make_onnx(tmp_path / "net", nodes, *specs, constants)
    ref = f"onnx:{tmp_path}/net/model.onnx"
    for longest, lengths in ((5, ((3, 5), (4,), (4,))), (9, ((3, 4), (4,), (9,)))):
        shop = Workshop(Sentences(lengths), store, here())
        with pytest.raises(DataError, match=rf"up to {longest} long \(ids\).*up to 4 it .* max_length=4"):
            shop.open(ref)
    assert Workshop(Sentences(((3, 4), (4,), (4,))), store, here()).open(ref).model.format == "onnx"


LONG = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(3, 4), torch.nn.Embedding(8, 4)

    def forward(self, ids, mask):
        return (self.words(ids) + self.places(torch.arange(ids.shape[1]))).sum((1, 2))
"""


@pytest.mark.slow
def test_a_net_is_not_trained_on_sequences_longer_than_it_takes_unless_they_are_cut(store, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(LONG)
    shop = Workshop(Sentences(((2, 3, 10), (4,), (10,))), store, here())
    with pytest.raises(DataError, match=r"max_length=8 in the task, or .* MODEL \| truncate"):
        shop.open(f"torch:{tmp_path}/net.py:Net | train(steps=1)")
    first = Workshop(Sentences(((10, 10, 3), (4,), (10,))), store, here())
    with pytest.raises(DataError, match=r"up to 10 long .* max_length=8 in the task$"):
        first.open(f"torch:{tmp_path}/net.py:Net")
    made = shop.open(f"torch:{tmp_path}/net.py:Net | truncate(share=0.5) | train(steps=1)")
    assert made.model.lineage[1:] == ("truncate", "train(steps=1)")


def test_a_pass_that_fails_leaves_no_entry(shop, monkeypatch):
    made = shop.open("null:linear")
    good = Narrow.apply

    def fails(self, model, context):
        (context.scratch / "half").write_text("x")
        raise DataError("told to fail")

    monkeypatch.setattr(Narrow, "apply", fails)
    with pytest.raises(DataError):
        shop.apply(made, bind("narrow").passes)
    assert shop.peek(made, bind("narrow").passes) == 0
    assert list((shop.store.root / "making").iterdir()) == []
    monkeypatch.setattr(Narrow, "apply", good)
    assert shop.apply(made, bind("narrow").passes).model.lineage[-1] == "narrow"


def test_a_folder_is_known_by_its_contents_not_its_place(shop, tmp_path):
    for name in ("a", "b"):
        apply_recipe("null:linear", "narrow", shop, tmp_path / name)
    apply_recipe("null:linear", "narrow(bits=32)", shop, tmp_path / "c")
    keys = [shop.open(str(tmp_path / name)).key for name in "abc"]
    assert keys[0] == keys[1] != keys[2]
    assert folder_hash(tmp_path / "a") == folder_hash(tmp_path / "b") != folder_hash(tmp_path / "c")


def test_a_result_goes_into_an_empty_folder_only(shop, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        apply_recipe("null:linear", "narrow", shop, tmp_path / "full")
    with pytest.raises(UsageError, match="is a file"):
        apply_recipe("null:linear", "narrow", shop, tmp_path / "full/mine")
    assert Narrow.applied == []
    (tmp_path / "empty").mkdir()
    made = apply_recipe("null:linear", "narrow @ null", shop, tmp_path / "empty")
    assert made.folder == tmp_path / "empty"


def test_a_recipe_that_does_not_fit_makes_no_folder(shop, tmp_path):
    with pytest.raises(RecipeError, match="takes 'torch'"):
        apply_recipe("null:linear", "prune", shop, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_that_fails_is_taken_back(shop, tmp_path, monkeypatch):
    copy = applying.shutil.copyfile

    def fails(source, target):
        if str(target).endswith("model.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(source, target)

    monkeypatch.setattr("shutil.copyfile", fails)
    with pytest.raises(OutputError, match="no space left"):
        apply_recipe("null:linear", "narrow", shop, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert apply_recipe("null:linear", "narrow", shop, tmp_path / "out").model.lineage == ("null:linear", "narrow")
