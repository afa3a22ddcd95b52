from dataclasses import replace

import pytest

from fit_toys import Backwards, greedy
from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit.loop import evaluate
from trimtab.fit.program import Net
from trimtab.passes import Context
from trimtab.passes.distill import Distill
from trimtab.passes.prune import Prune
from trimtab.passes.train import Train
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
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
def test_needs_a_torch_model_as_teacher(base, view, tmp_path):
    with pytest.raises(Refused, match="needs a base that is a torch model, to be the teacher; got none"):
        Distill().apply(base, Context(view, tmp_path, HERE))
    foreign = base.map_parts({"main": replace(base.main, format="onnx")})
    with pytest.raises(Refused, match="got one of format onnx"):
        Distill().apply(base, Context(view, tmp_path, HERE, base=foreign))


def test_chosen_only_where_something_was_lost(machine):
    facts = Facts("torch", 1, 20_000_000, {"conv": 9}, quality_loss=0.3)
    assert Distill.choices(replace(facts, quality_loss=0.0), machine) == ()
    assert Distill.choices(facts, machine)
    choices = Distill.choices(replace(facts, cut=0.5), machine)
    predicted = [choice.predict(facts, machine) for choice in choices]
    losses = [one.quality_loss for one in predicted]
    assert [choice.steps for choice in choices] == [256, 1024, 2048]
    assert 0.3 > losses[0] > losses[1] > losses[2] > 0
    assert {one.cut for one in predicted} == {0.0}


def test_choices_fit_the_machine_and_say_how_long_they_take(machine):
    large = Facts("torch", 22_000_000, 220_000_000, {"linear": 38}, cut=0.5)
    short, medium, long = Distill.choices(large, machine)
    for choice, seconds in ((short, 20), (medium, 60), (long, 180)):
        assert seconds / 1.5 < choice.seconds(large, machine) < seconds * 1.5
    assert {choice.precision for choice in (short, medium, long)} == {"fp32"}
    modern = replace(machine, isa=("avx512_bf16",))
    assert {choice.precision for choice in Distill.choices(large, modern)} == {"bf16"}
    assert Distill.choices(replace(large, operations=10**12), machine) == ()
    assert [choice.steps for choice in Distill.choices(large, HERE)] == [512, 1024, 4096]
    assert Distill(steps=3).seconds(large, HERE) is None


def test_what_is_far_smaller_than_its_teacher_may_learn_from_labels_alone(machine):
    encoder = Facts("torch", 22_000_000, 8_000_000, {"embedding": 3}, cut=0.99)
    taught = [one for one in Distill.choices(encoder, machine) if one.alpha]
    alone = [one for one in Distill.choices(encoder, machine) if not one.alpha]
    assert len(taught) == len(alone) == 3
    assert all(few.steps < many.steps for few, many in zip(taught, alone, strict=True))
    words = replace(encoder, parameters_by={"embedding": 12_000_000})
    assert alone[0].seconds(words, machine) > alone[0].seconds(encoder, machine), "each row is moved"
    assert all(one.alpha for one in Distill.choices(replace(encoder, cut=0.5), machine)), "its teacher costs little"


def test_a_second_recovery_asks_the_same_teacher(machine):
    cut = Facts("torch", 22_000_000, 8_000_000, {"embedding": 3}, cut=0.99)
    once = Distill(steps=64).predict(cut, machine)
    assert (once.cut, once.whole) == (0.0, 800_000_000)
    assert Distill(steps=64).predict(once, machine).whole == 800_000_000
    assert Distill(steps=64).seconds(once, machine) == pytest.approx(Distill(steps=64).seconds(cut, machine))


def test_one_recovery_after_another_wins_back_what_one_as_long_does(machine):
    cut = Facts("torch", 1_000_000, 80_000_000, {"conv": 9}, quality_loss=0.9, cut=0.9)
    twice = Distill(steps=512).predict(Distill(steps=512).predict(cut, machine), machine)
    whole = Distill(steps=1024).predict(cut, machine)
    assert twice.quality_loss == pytest.approx(whole.quality_loss)
    anew = Distill(steps=512).predict(replace(twice, cut=0.5, quality_loss=0.9), machine)
    assert anew.quality_loss == pytest.approx(Distill(steps=512).predict(cut, machine).quality_loss)


def test_labels_alone_need_labels(view, base, tmp_path):
    class Bare(type(view.task)):
        objective = "none"

    with pytest.raises(Refused, match="no labels to learn from alone"):
        Distill(alpha=0.0).apply(base, Context(TaskView(Bare()), tmp_path, HERE, base=base))


def test_follows_the_teacher_alone_where_there_are_no_labels(view, tmp_path):
    class Unlabelled(type(view.task)):
        objective = "none"

        @property
        def metrics(self):
            return tuple(metric for metric in super().metrics if metric.paired)

        def collate(self, examples):
            return replace(super().collate(examples), targets=None)

    bare = TaskView(Unlabelled())
    models = [
        registry("sources").take("zoo")().open(f"mlp(width=16, seed={seed})", tmp_path / str(seed), view)
        for seed in (0, 1)
    ]
    told = Distill(steps=1).apply(models[0], Context(bare, tmp_path / "out", HERE, base=models[1]))
    assert told.notes["distill"]["notes"] == ["the task has no targets: the teacher alone is followed (alpha=1)"]


@pytest.mark.slow
def test_a_speller_of_two_parts_is_trained_and_taught(tmp_path):
    view = TaskView(Backwards())
    large, small = greedy(tmp_path / "large", width=24), greedy(tmp_path / "small", width=16)
    base = Train(epochs=8, lr=0.02).apply(large, Context(view, tmp_path / "base", HERE))
    told = Distill(epochs=8, lr=0.02).apply(small, Context(view, tmp_path / "out", HERE, base=base))
    assert base.notes["train"]["history"][-1]["wrong"] < 0.8
    losses = [entry["loss"] for entry in told.notes["distill"]["history"]]
    assert losses[-1] < losses[0] / 2
    assert not any("anew" in note for note in told.notes["distill"]["notes"])
    wrong = []
    for made in (base, told):
        made.save(made.main.path.parent)
        again = Net.load(Model.open(made.main.path.parent))
        wrong.append(evaluate(again, view, "validation", Backwards().metrics[0]))
    assert wrong[0] == base.notes["train"]["history"][-1]["wrong"]
    assert wrong[1] < 0.8
