import json
import os
import subprocess
import sys
import textwrap
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from small_texts import Sentences, tokenizer_text, write_reviews
from trimtab.errors import CorruptFile, DataError, Refused, UnknownName, UnsafeFile
from trimtab.fit import code
from trimtab.fit import module as artefact
from trimtab.tasks._labelled import stacked
from trimtab.values.registry import registry
from trimtab.values.task import Batch, Example, Task, TaskView

CODE = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(64, width), nn.Linear(width, width)
        self.third, self.last = nn.Linear(width, width), nn.Linear(width, 10)
        self.third.weight = self.second.weight
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("view", self.scale[1:])
        self.seen = 7

    def forward(self, image):
        return self.last(self.third(self.second(self.first(image.flatten(1)).relu()))) * self.scale[0]

    def get_extra_state(self):
        return {"seen": self.seen}

    def set_extra_state(self, state):
        self.seen = state["seen"]

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def saved(file, view, tmp_path):
    build = {"ref": f"{file}:Tied", "arguments": {"width": 12}, "sha256": code.file_hash(file)}
    module = code.build(build)
    module.seen = 9
    signature = artefact.signature(module, view)
    return module, artefact.save(module, tmp_path / "part", signature, build, (), artefact.example(view))


def answers(module, view):
    batch = artefact.example(view, 5)
    return module(torch.from_numpy(batch.inputs["image"]))


@pytest.mark.parametrize(("lengths", "size", "wanted"), [
    ((2, 40, 7, 6, 1), 2, [7, 1]), ((9, 3, 4), 1, [4]), ((5, 4), 3, [5, 4, 5]), ((2,) * 64 + (30,), 65, [2] * 64 + [30])
])  # fmt: skip
def test_an_example_is_of_mean_length_and_the_next_is_padded(lengths, size, wanted):
    batch = artefact.example(TaskView(Sentences((lengths, (4,), (4,)))), size)
    assert batch.inputs["mask"].sum(axis=1).tolist() == wanted


def change(part, **fields):
    path = part.path / artefact.TORCH_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_round_trip_with_tied_weights_views_and_extra_state(saved, view):
    module, part = saved
    again = artefact.load(part)
    assert torch.equal(answers(again, view), answers(module.eval(), view))
    assert again.seen == 9
    assert again.third.weight is again.second.weight
    assert not again.training
    assert part.facts.parameters == sum(p.numel() for p in module.parameters())
    assert part.facts.operations == 64 * 12 + 2 * 12 * 12 + 12 * 10
    assert artefact.edited(part)[0]["arguments"] == {"width": 12}


def test_equal_content_gives_equal_files(saved, view, tmp_path):
    module, part = saved
    again = artefact.save(module, tmp_path / "again", part.signature, *artefact.edited(part), artefact.example(view))
    for name in (artefact.TORCH_FILE, artefact.WEIGHTS_FILE):
        assert (part.path / name).read_bytes() == (again.path / name).read_bytes()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"build": {}}, "build cannot be"),
        ({"build": {"ref": 5, "arguments": {}}}, "build cannot be"),
        ({"edits": [True]}, "edits cannot be"),
        ({"edits": [{"by": "prune"}]}, "edits cannot be"),
        ({"edits": [{"by": "nope", "edit": {}}]}, "not installed here: unknown pass 'nope'"),
        ({"edits": [{"by": "train", "edit": {}}]}, "changes no structure"),
        ({"edits": [{"by": "prune", "edit": {}}]}, "the recorded cuts are not"),
        ({"tied": [1]}, "tied cannot be"),
        ({"tied": {"a": 5}}, "tied cannot be"),
        ({"tied": {"a": "gone"}}, "does not fit the module"),
        ({"extra": 5}, "extra cannot be"),
        ({"exported": 5}, "exported cannot be"),
    ],
)
def test_a_malformed_description_is_one_clear_line(saved, fields, said):
    _, part = saved
    change(part, **fields)
    with pytest.raises(CorruptFile, match=said):
        artefact.load(part)


def test_signature_names_axes(saved):
    (spec,), (output,) = saved[1].signature.inputs, saved[1].signature.outputs
    assert (spec.name, spec.dtype, spec.shape) == ("image", "float32", ("batch", 1, 8, 8))
    assert (output.name, output.dtype, output.shape) == ("output", "float32", ("batch", 10))


def test_changed_code_is_refused(saved, file):
    file.write_text(CODE + "\n# changed\n")
    with pytest.raises(CorruptFile, match="has changed since the model was opened; open the model again"):
        artefact.load(saved[1])


def test_vanished_code_is_said(saved, file):
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read .*net.py: No such file"):
        artefact.load(saved[1])


def test_damaged_weights_and_descriptions_are_refused(saved):
    _, part = saved
    weights = (part.path / artefact.WEIGHTS_FILE).read_bytes()
    (part.path / artefact.WEIGHTS_FILE).write_bytes(weights[:-5])
    with pytest.raises(CorruptFile, match="not a whole safetensors file"):
        artefact.load(part)
    (part.path / artefact.WEIGHTS_FILE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(CorruptFile, match="does not match its own digest"):
        artefact.load(part)
    (part.path / artefact.WEIGHTS_FILE).write_bytes(weights)
    change(part, extra={})
    with pytest.raises(CorruptFile, match="does not fit the module"):
        artefact.load(part)
    (part.path / artefact.TORCH_FILE).write_text('{"build": 1')
    with pytest.raises(CorruptFile, match="not a torch part's description"):
        artefact.load(part)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_description_cannot_name_the_standard_library(saved, hashed, tmp_path):
    build = {"ref": "os:system", "arguments": {"command": f"touch {tmp_path}/owned"}}
    change(saved[1], build=build | {"sha256": code.file_hash(type(tmp_path)(os.__file__)) if hashed else None})
    with pytest.raises(UnsafeFile, match="os is part of Python itself"):
        artefact.load(saved[1])
    assert not (tmp_path / "owned").exists()


def test_bad_references_have_one_clear_line(file, tmp_path):
    with pytest.raises(UnknownName, match="did you mean Tied"):
        code.find(f"{file}:Tide")
    with pytest.raises(DataError, match=r"gives a int; it must return a torch.nn.Module"):
        code.call(f"{file}:number", {})
    with pytest.raises(DataError, match="unexpected keyword argument 'depth'"):
        code.call(f"{file}:Tied", {"depth": 1})
    with pytest.raises(DataError, match="cannot import no_such_module"):
        code.find("no_such_module:net")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(DataError, match=r"broken.py fails: ZeroDivisionError"):
        code.find(f"{tmp_path / 'broken.py'}:net")


def test_a_model_that_does_not_take_the_inputs_is_said(view):
    with pytest.raises(
        DataError, match=r"does not take the inputs of small_digits \(image float32\['batch', 1, 8, 8\]\)"
    ):
        artefact.signature(nn.Linear(3, 2), view)
    with pytest.raises(DataError, match="gives a NoneType"):
        artefact.named(None)


def test_state_that_is_no_data_is_refused(view, tmp_path):
    class Strange(nn.Flatten):
        def get_extra_state(self):
            return {"hook": print}

        def set_extra_state(self, state):
            pass

    module = nn.Sequential(Strange(), nn.Linear(64, 10))
    with pytest.raises(Refused, match=r"keeps 0._extra_state as a dict; state must be tensors or plain JSON"):
        artefact.save(module, tmp_path, artefact.signature(module, view), {"ref": "x:y"}, (), artefact.example(view))


class Local(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))

    def forward(self, image):
        return self.body(image)


@pytest.fixture
def live(view, tmp_path):
    key = artefact.register_live(Local())
    module = artefact.live(artefact.live_build(key))
    signature = artefact.signature(module, view)
    build, example = artefact.live_build(key), artefact.example(view)
    return key, module, artefact.save(module, tmp_path / "live", signature, build, (), example)


def test_a_live_module_is_rebuilt_here_and_exported_for_others(live, view, monkeypatch):
    key, module, part = live
    assert artefact.register_live(artefact.LIVE[key]) == key
    expected = answers(module.eval(), view)
    assert isinstance(artefact.load(part), Local)
    assert torch.equal(answers(artefact.load(part), view), expected)
    monkeypatch.delitem(artefact.LIVE, key)
    torch.testing.assert_close(answers(artefact.load(part), view), expected)
    with pytest.raises(Refused, match="lives only in the process that defined it"):
        artefact.load(part, editable=True)
    path = part.path / artefact.EXPORTED_FILE
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CorruptFile, match="not the program that was exported"):
        artefact.load(part)


class Branching(Local):
    def forward(self, image):
        return self.body(image if image.sum() > 0 else -image)


def test_a_live_module_that_branches_on_values_is_told_where_and_what_can_be_done(view, tmp_path):
    key = artefact.register_live(Branching())
    module, build = artefact.live(artefact.live_build(key)), artefact.live_build(key)
    said = r"line \d+ of test_module.py decides on values that are known only at run time: .*; give it as torch:FILE.py"
    with pytest.raises(Refused, match=said):
        artefact.save(module, tmp_path, artefact.signature(module, view), build, (), artefact.example(view))


NOTEBOOK = """
import torch
from types import SimpleNamespace
from torch import nn

def sharpen(x):
    return x * 2

class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.config, self.scale = 4, SimpleNamespace(depth=5), torch.full((2,), 6.0)
        self.register_buffer("places", torch.full((2,), 7.0), persistent=False)
        self.register_forward_hook(lambda module, given, found: found * 8)

    def forward(self, x):
        return sharpen(x).relu()

net = nn.Sequential(nn.Flatten(), Cell())
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        (".relu()", ".tanh()"),
        ("x * 2", "x * 3"),
        ("= 4,", "= 8,"),
        ("depth=5", "depth=6"),
        ("6.0", "6.5"),
        ("7.0", "7.5"),
        ("found * 8", "found * 9"),
    ],
)
def test_the_key_of_a_live_module_is_that_of_its_code_and_attributes(old, new):
    keys = []
    for text in (NOTEBOOK, NOTEBOOK.replace(old, new)):
        module = types.ModuleType("notebook")
        exec(text, vars(module))  # noqa: S102
        keys.append(artefact.register_live(module.net))
        assert artefact.register_live(module.net.eval()) == keys[-1]
    assert (keys[0] == keys[1]) == (old == new)


@pytest.mark.slow
def test_a_worker_runs_a_live_module_at_any_batch(live, view, tmp_path):
    _, module, part = live
    script = """
        import sys, json, torch
        from pathlib import Path
        from trimtab.fit import module
        from trimtab.values.model import Part
        part = Part.from_json(json.loads(sys.argv[1]), Path(sys.argv[2]))
        print(json.dumps(module.load(part)(torch.ones(3, 1, 8, 8)).tolist()))
    """
    arguments = [json.dumps(part.to_json(tmp_path)), str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), module.eval()(torch.ones(3, 1, 8, 8)))


def test_edits_are_replayed_by_the_pass_that_made_them(saved, view, monkeypatch):
    class Halve:
        @staticmethod
        def rebuild(module, edit):
            module.first.out_features = edit["width"]
            return module

    monkeypatch.setitem(registry("passes")._added, "halve", Halve)
    _, part = saved
    change(part, edits=[{"by": "halve", "edit": {"width": 5}}])
    assert artefact.load(part).first.out_features == 5
    assert artefact.edited(part)[1] == [{"by": "halve", "edit": {"width": 5}}]
    assert artefact.load(replace(part, facts=part.facts)).first.out_features == 5


class Words(nn.Module):
    """A mean of embedded words."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        weight = attention_mask.unsqueeze(2)
        return self.head((self.embed(input_ids) * weight).sum(1) / weight.sum(1))


@pytest.mark.parametrize(("padding", "axis"), [("longest", "time"), ("max", 3)])
def test_texts_have_a_free_length_even_if_all_seen_were_cut_off(tmp_path, padding, axis):
    (tmp_path / "tokenizer.json").write_text(tokenizer_text())
    path = write_reviews(tmp_path / "reviews.csv")
    named = {"target": "label", "text": "review", "tokenizer": str(tmp_path), "max_length": 3}
    view = TaskView(registry("tasks").take("text")(str(path), padding=padding, **named))
    assert {example.inputs["input_ids"].shape for example in view.split("train")} == {(3,)}
    found = artefact.signature(Words(), view)
    assert {spec.name: spec.shape for spec in found.inputs} == {
        "input_ids": ("batch", axis),
        "attention_mask": ("batch", axis),
    }
    assert found.outputs[0].shape == ("batch", 2)


def test_an_input_beside_a_length_that_is_shorter_is_no_sequence():
    class Both(Task):
        name, objective, metrics = "both", "none", ()

        def split(self, name):
            rows = np.zeros((8, 9, 2), np.float32)
            given = [{"sequence": row[: 4 + n % 5], "static": np.zeros(3, np.float32)} for n, row in enumerate(rows)]
            return [Example(f"{n}", {**one, "length": np.array(len(one["sequence"]))}) for n, one in enumerate(given)]

        def collate(self, examples):
            names = examples[0].inputs
            return Batch({name: stacked([np.asarray(one.inputs[name]) for one in examples]) for name in names}, None)

        def score(self, outputs, batch):
            raise NotImplementedError

    class Reader(nn.Module):
        def forward(self, sequence, static, length):
            return {"output": sequence.sum(1) + static.sum(1, keepdim=True)}

    found = artefact.signature(Reader(), TaskView(Both()))
    assert [spec.shape for spec in found.inputs] == [("batch", "time", 2), ("batch", 3), ("batch",)]
