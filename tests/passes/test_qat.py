from dataclasses import replace

import pytest

from trimtab.errors import RecipeError, Refused
from trimtab.passes import Context
from trimtab.passes.onnx import Onnx
from trimtab.passes.qat import Qat
from trimtab.passes.quantize import Quantize
from trimtab.passes.train import Train
from trimtab.run.onnx_check import session
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = Machine("here", 1)


@pytest.fixture(scope="module")
def view():
    return TaskView(registry("tasks").take("digits")())


def opened(net, view, folder):
    return registry("sources").take("zoo")().open(net, folder, view)


def int8(model, view, folder):
    """Return the accuracy of the model in float and in int8, and the mean squared change of the outputs."""
    context = Context(view, folder, HERE)
    steps = [replace(context, scratch=folder / name) for name in ("onnx", "int8")]
    for step in steps:
        step.scratch.mkdir(parents=True)
    exported = Onnx().apply(model, steps[0])
    rounded = Quantize(weights=7).apply(exported, steps[1])
    batch = view.task.collate([view.split("validation")[i] for i in range(len(view.split("validation")))])
    answers = [session(m.main.path / "model.onnx").run(None, dict(batch.inputs))[0] for m in (exported, rounded)]
    right = [float((answer.argmax(1) == batch.targets).mean()) for answer in answers]
    return right, float(((answers[0] - answers[1]) ** 2).mean() / answers[0].var())


@pytest.mark.slow
def test_int8_loses_less_after_training_with_its_rounding(view, tmp_path):
    base = Train(epochs=3, lr=0.01).apply(
        opened("vgg(width=8, depth=1)", view, tmp_path / "zoo"), Context(view, tmp_path / "base", HERE)
    )
    aware = Qat(epochs=1, weights=7).apply(base, Context(view, tmp_path / "qat", HERE, base=base))
    assert set(aware.notes["qat"]["ranges"]) == {f"main/{name}" for name in aware_layers(aware)}
    (_, plain), before = int8(base, view, tmp_path / "plain")
    (_, better), after = int8(aware, view, tmp_path / "aware")
    assert after < before
    assert better >= plain - 0.01


def aware_layers(model):
    from torch import nn

    from trimtab.fit import module as artefact

    return [n for n, m in artefact.load(model.main).named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_needs_a_teacher_and_layers_to_round(view, tmp_path):
    model = opened("mlp(width=8)", view, tmp_path)
    with pytest.raises(Refused, match="qat needs a base that is a torch model, to be the teacher; got none"):
        Qat().apply(model, Context(view, tmp_path / "out", HERE))
    bare = model.map_parts({"main": replace(model.main, facts=Facts("torch", 1, 1, {"gru": 1}))})
    assert "the model has none" in Qat().refuses(bare, HERE)
    assert Qat().refuses(model, HERE) is None


def test_offered_once_and_predicts_what_the_grid_costs(machine):
    facts = Facts("torch", 1, 20_000_000, {"conv": 9})
    (choice,) = Qat.choices(facts, machine)
    assert choice.seconds(facts, machine) == pytest.approx(60, rel=0.5)
    assert Qat.choices(Facts("torch", 1, 1, {"gru": 1}), machine) == ()
    assert choice.predict(facts, machine).quality_loss == pytest.approx(0.001)
    assert 0.001 < choice.predict(replace(facts, cut=0.5, quality_loss=0.1), machine).quality_loss < 0.01
    assert Qat(weights=4).predict(facts, machine).quality_loss > 0.2


def test_bits_that_mean_nothing_are_refused():
    with pytest.raises(RecipeError, match="weights are 2 to 8 bits, got 9"):
        Step.parse("qat(weights=9)").build(Qat)
