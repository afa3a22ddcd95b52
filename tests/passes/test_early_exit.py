from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from small_texts import write_encoder, write_reviews
from trimtab.errors import CorruptFile, Refused
from trimtab.fit import halves
from trimtab.fit import module as artefact
from trimtab.fit.program import Net
from trimtab.passes import Context
from trimtab.passes.early_exit import EarlyExit
from trimtab.passes.onnx import Onnx
from trimtab.passes.train import Train
from trimtab.run.program import drive
from trimtab.sources import _zoo_nets as zoo
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Model
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = Machine("here", 1)
NETS = {
    "resnet": (lambda: zoo.resnet((1, 8, 8), 10, width=8, depth=1), (torch.rand(3, 1, 8, 8),), 3),
    "vgg": (lambda: zoo.vgg((1, 8, 8), 10, width=8, depth=1), (torch.rand(3, 1, 8, 8),), 3),
    "encoder": (
        lambda: zoo.transformer((6, 3), 4, width=16, depth=3),
        (torch.rand(3, 6, 3), torch.tensor([6, 1, 4])),
        3,
    ),
    "encoder of tokens": (
        lambda: zoo.transformer((6,), 4, width=16, depth=2, vocabulary=9),
        (torch.tensor([[3, 4, 5, 0, 0, 0], [1, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 8]]),),
        2,
    ),
}
NAMES = ("given", "length")


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_halves_are_the_whole_wherever_it_is_cut(name):
    make, given, count = NETS[name]
    whole = make().eval()
    assert halves.places(whole) == count
    for after in range(1, count):
        body, main, takes = halves.cut(whole, after, NAMES[: len(given)])
        pooled, hidden = body.eval()(*given)
        told = [given[NAMES.index(one)] for one in takes]
        assert torch.allclose(main.eval()(hidden, *told), whole(*given), atol=1e-5)
        assert pooled.shape[0] == len(hidden)
        assert pooled.ndim == 2
    for after in (0, count):
        with pytest.raises(Refused, match=f"can be cut after 1 to {count - 1}; got {after}"):
            halves.cut(whole, after, NAMES)


def test_other_nets_are_refused_with_the_reason():
    with pytest.raises(Refused, match="Recurrent does not say where it could be cut in two"):
        halves.places(zoo.lstm((6, 3), 4, width=8))
    with pytest.raises(Refused, match="Sequential does not say where it could be cut in two: that is told of"):
        halves.cut(zoo.mlp((4,), 3, width=8), 1, ("features",))
    with pytest.raises(Refused, match="nowhere: it has one block"):
        halves.cut(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), 1, ("image",))


def test_only_the_exit_learns():
    net = zoo.resnet((1, 8, 8), 10, width=8)
    pupil = halves.Pupil(halves.First(halves.cut(net, 1, ("image",)).body, 8, 10)).train()
    assert not any(module.training for module in pupil.modules())
    learning = [name for name, weight in pupil.named_parameters() if weight.requires_grad]
    assert learning
    assert all(name.startswith("first.exit.") for name in learning)


def test_settings_by_kind_of_net_and_what_they_promise(machine):
    text = Facts("torch", 1_000, 1_000, {"attention": 6}, operations_by={"linear": 1_000}, blocks=6)
    assert EarlyExit.choices(text, machine) == (EarlyExit(after=3),)
    assert EarlyExit.choices(replace(text, blocks=3), machine) == ()
    assert EarlyExit.choices(replace(text, cut=0.1), machine) == ()
    assert EarlyExit.choices(Facts("torch", 1, 1, {"conv": 6}), machine) == (EarlyExit(),)
    after = EarlyExit(after=3).predict(text, machine)
    assert (after.operations, after.operations_by, after.quality_loss) == (650, {"linear": 650}, 0.002)
    assert after.reached == 0.65
    for wrong in ({"after": 0}, {"steps": 0}, {"loss": -0.1}):
        with pytest.raises(ValueError, match=r"is from 1, got 0|is a share"):
            EarlyExit(**wrong)


def test_an_edit_that_does_not_fit_is_a_corrupt_file():
    edit = {"after": 1, "inputs": ["features"], "half": "first", "width": 8}
    with pytest.raises(CorruptFile, match="edit of early_exit does not fit"):
        artefact.replay(zoo.resnet((1, 8, 8), 10, width=8), {"by": "early_exit", "edit": edit})


def open_resnet(folder):
    return registry("tasks").take("digits")(), "zoo", "resnet(width=8)"


def open_transformer(folder):
    length, targets = np.arange(300) % 5 + 2, np.arange(300) % 3
    steps = np.random.default_rng(0).normal(size=(2, 300, 6, 3)).astype(np.float32) + targets[:, None, None]
    batches = [([one, length], targets) for one in steps]
    return registry("tasks").take("loaders")(batches[:1], batches[1:]), "zoo", "transformer(width=16, depth=2)"


def open_bert(folder):
    pytest.importorskip("transformers")
    place = write_encoder(folder / "encoder")
    path = write_reviews(folder / "reviews.csv", 900)
    named = {"target": "label", "text": "review", "tokenizer": str(place), "max_length": 10}
    return registry("tasks").take("text")(str(path), **named), "hf", str(place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opened", "exporter"),
    [(open_resnet, "torchscript"), (open_transformer, "dynamo"), (open_bert, "torchscript")],
)
def test_both_halves_are_saved_served_and_exported(opened, exporter, tmp_path):
    task, source, ref = opened(tmp_path)
    view = TaskView(task)
    (tmp_path / "given").mkdir()
    given = registry("sources").take(source)().open(ref, tmp_path / "given", view)
    base = Train(steps=150, lr=0.01).apply(given, Context(view, tmp_path / "base", HERE))
    exiting = EarlyExit(loss=0.05, steps=100)
    made = exiting.apply(base, Context(view, tmp_path / "out", HERE))
    made.save(tmp_path / "out")
    again = Model.open(tmp_path / "out")
    notes = again.notes["early_exit"]
    assert isinstance(again.program, Cascade)
    assert again.facts.operations < base.facts.operations
    batch = next(view.batches("validation", 1000))
    answer, whole = (Net.load(one).answer(batch) for one in (again, base))
    assert (answer["stage"] == 0).mean() == pytest.approx(notes["stops"], abs=0.01)
    unsure = replace(again, program=replace(again.program, thresholds=(2.0,)))
    assert np.allclose(Net.load(unsure).answer(batch)["output"], whole["output"], atol=1e-4)
    exported = Onnx(exporter=exporter).apply(unsure, Context(view, tmp_path / "onnx", HERE))
    session = registry("runtimes").take("onnxruntime")().load(exported, HERE)
    served = drive(exported, session, batch.inputs)
    assert np.allclose(served["output"], whole["output"], atol=1e-3)
    assert set(served["stage"]) == {1}
    # an exit's threshold is the confidence of one of the examples: a little below it, rounding decides nothing
    settled = replace(again.program, thresholds=tuple(each - 1e-4 for each in again.program.thresholds))
    answer = Net.load(replace(again, program=settled)).answer(batch)
    served = drive(replace(exported, program=settled), session, batch.inputs)
    assert np.allclose(served["output"], answer["output"], atol=1e-3)
