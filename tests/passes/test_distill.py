from dataclasses import replace

import pytest

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit.loop import evaluate
from trimtab.passes import Context
from trimtab.passes.distill import Distill
from trimtab.passes.prune import Prune
from trimtab.passes.train import Train
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = Machine("here", 1)


@pytest.fixture(scope="module")
def view():
    return TaskView(registry("tasks").take("digits")())


@pytest.fixture(scope="module")
def base(view, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model = registry("sources").take("zoo")().open("vgg(width=8, depth=1)", folder / "zoo", view)
    return Train(epochs=5, lr=0.01).apply(model, Context(view, folder / "out", HERE))


def accuracy(model, view):
    return evaluate(artefact.load(model.main), view, "validation", view.task.metric("accuracy"))


@pytest.mark.slow
def test_a_pruned_net_comes_back_to_the_base(base, view, tmp_path):
    cut = Prune(0.5).apply(base, Context(view, tmp_path / "cut", HERE))
    context = Context(view, tmp_path / "out", HERE, base=base)
    recovered = Distill(epochs=5, lr=0.01).apply(cut, context)
    assert accuracy(base, view) > 0.9
    assert accuracy(cut, view) < accuracy(recovered, view)
    assert accuracy(recovered, view) > accuracy(base, view) - 0.03
    assert recovered.facts.operations == cut.facts.operations
    assert recovered.facts.cut == 0.0
    assert 0 < recovered.facts.quality_loss < cut.facts.quality_loss
    assert set(recovered.notes) == {"train", "prune", "distill"}
    assert artefact.edited(recovered.main) == artefact.edited(cut.main)


@pytest.mark.slow
def test_needs_one_torch_network_as_teacher(base, view, tmp_path):
    with pytest.raises(Refused, match="needs a base that is one torch network, to be the teacher; got none"):
        Distill().apply(base, Context(view, tmp_path, HERE))
    foreign = base.map_parts({"main": replace(base.main, format="onnx")})
    with pytest.raises(Refused, match="got one of format onnx with 1 parts"):
        Distill().apply(base, Context(view, tmp_path, HERE, base=foreign))


def test_chosen_only_where_something_was_cut():
    facts = Facts("torch", 1, 1, {"conv": 1}, quality_loss=0.3)
    assert Distill.choices(facts, HERE) == ()
    first, second = (
        choice.predict(replace(facts, cut=0.5), HERE) for choice in Distill.choices(replace(facts, cut=0.5), HERE)
    )
    assert 0 < second.quality_loss < first.quality_loss < 0.3
    assert first.cut == 0.0
