from dataclasses import replace

import pytest

from trimtab.apply import Workshop
from trimtab.errors import Refused
from trimtab.fit.loop import evaluate
from trimtab.fit.program import Net
from trimtab.passes import Context
from trimtab.passes.cascade import PRUNED, SEEN_WORDS, SHALLOW, WORDS, Cascade
from trimtab.recipe import bind
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Greedy, Model, Part, Signature, TensorSpec
from trimtab.values.registry import registry
from trimtab.values.store import Store
from trimtab.values.task import TaskView

HERE = Machine("here", 1)
SMALL = "prune(0.7) | distill(steps=128, lr=0.01)"


def test_the_recipe_is_canonical_text_quoted_or_not():
    one = Cascade(first="prune( ratio=0.5 )|distill(steps=4)")
    assert one.first == "prune(ratio=0.5) | distill(steps=4)"
    assert str(one) == "cascade(first='prune(ratio=0.5) | distill(steps=4)')"
    bound = bind("cascade(first=prune(ratio=0.5) | distill(steps=4)) | onnx").passes
    assert bound[0] == one
    assert bind(str(one)).passes == bound[:1]
    assert str(Cascade()) == "cascade"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("", "has no passes"),
        ("prune @ torch", "names the runtime torch"),
        ("prune | onnx", "onnx takes or gives onnx"),
        ("quantize", "takes or gives no torch model"),
        ("early_exit", "takes or gives a cascade"),
        ("prnue", "no recipe for a torch model: .*prune"),
        ("prune(ratio=2)", "ratio is above 0 and below 1, got 2"),
        ("prune(", "a bracket is not closed"),
    ],
)
def test_a_wrong_recipe_fails_at_once(first, why):
    with pytest.raises(ValueError, match=why):
        Cascade(first=first)


def test_settings_by_kind_of_net_and_what_they_promise(machine):
    with pytest.raises(ValueError, match="loss is a share"):
        Cascade(loss=1.0)
    conv = Facts("torch", 1_000, 1_000_000, {"conv": 5}, operations_by={"conv": 1_000_000})
    text = Facts("torch", 1_000, 1_000_000, {"attention": 6, "linear": 9}, blocks=6)
    assert [str(one.first) for one in Cascade.choices(conv, machine)] == [PRUNED]
    assert [str(one.first) for one in Cascade.choices(text, machine)] == [SHALLOW]
    reader = replace(text, layers={**text.layers, "embedding": 3})
    assert [str(one.first) for one in Cascade.choices(reader, machine)] == [SHALLOW, WORDS, SEEN_WORDS]
    assert Cascade.choices(replace(conv, cut=0.5), machine) == ()
    after = Cascade().predict(conv, machine)
    assert (after.operations, after.cut, after.blocks) == (400_000, 0.0, 0)
    assert (after.operations_by, after.quality_loss) == ({"conv": 400_000}, 0.002)
    assert after.parameters == 1_100
    assert (after.layers, after.reached) == ({"conv": 10}, pytest.approx(0.65)), "all of the first, and 0.3 of the rest"
    assert Cascade().seconds(conv, machine) > 0


def test_takes_one_net_of_one_call_on_a_task_of_classes(tmp_path, toy_view, machine):
    spec = Signature(
        (TensorSpec("features", "float32", ("batch", 5)),), (TensorSpec("output", "float32", ("batch", 3)),)
    )
    model = Model({"main": Part("torch", tmp_path, spec, Facts("torch", 1, 1))})
    greedy = replace(model, program=Greedy(None, "main", 0, 1, 2))
    assert "not a greedy" in Cascade().refuses(greedy, machine)
    assert Cascade().refuses(model, machine) is None
    with pytest.raises(Refused, match="nobody to run one"):
        Cascade().apply(model, Context(toy_view, tmp_path, machine))
    other = lambda text: replace(model, parts={"main": replace(model.main, format="onnx")})  # noqa: E731
    with pytest.raises(Refused, match=r"must be a torch model; .* gives one of format onnx"):
        Cascade().apply(model, Context(toy_view, tmp_path, machine, make=other))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(registry("tasks").take("digits")(), Store(tmp_path_factory.mktemp("store")), HERE)


@pytest.mark.slow
def test_a_cascade_keeps_the_score_at_less_work_and_is_exported(workshop, tmp_path):
    base = workshop.open("zoo:resnet(width=8) | train(steps=300, lr=0.01)")
    made = workshop.apply(base, (Cascade(SMALL, loss=0.0),), base)
    view, metric = TaskView(workshop.task), workshop.task.metric("accuracy")
    notes, model = made.model.notes["cascade"], Model.open(made.folder)
    before, after = (evaluate(Net.load(one), view, "validation", metric) for one in (base.model, model))
    assert after >= before > 0.8
    batch = next(view.batches("validation", 1000))
    stage = Net.load(model).answer(batch)["stage"]
    assert (stage == 0).mean() == pytest.approx(notes["stops"])
    assert model.facts.operations < 0.9 * base.model.facts.operations
    assert (model.facts.cut, model.program.thresholds) == (0.0, (notes["threshold"],))
    assert {"prune", "distill"} <= set(notes["first_notes"])
    exported = workshop.apply(made, bind("onnx(exporter='torchscript')").passes, base).model
    assert exported.format == "onnx"
    assert exported.program == model.program
    assert exported.facts.operations == pytest.approx(model.facts.operations, rel=0.05)
    session = registry("runtimes").take("onnxruntime")().load(exported, HERE)
    served = drive(exported, session, batch.inputs)
    differs = served["output"].argmax(1) != Net.load(model).answer(batch)["output"].argmax(1)
    assert differs.sum() <= 1, "one example's confidence may be the threshold itself: rounding decides where it stops"
