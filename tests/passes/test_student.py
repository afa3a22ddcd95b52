"""A small fresh net in the place of a whole one."""

from dataclasses import replace

import pytest

from structures import HERE, context, opened, sequences, texts
from trimtab.errors import RecipeError, Refused, UnknownName
from trimtab.fit import module as artefact
from trimtab.fit.loop import evaluate
from trimtab.fit.program import Net
from trimtab.passes.distill import Distill
from trimtab.passes.student import WIDTHS, Student
from trimtab.passes.train import Train
from trimtab.values.facts import Facts
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import TaskView


@pytest.fixture(scope="module")
def digits():
    return TaskView(registry("tasks").take("digits")())


@pytest.mark.slow
def test_a_student_is_the_widest_that_is_small_enough_and_learns(digits, tmp_path):
    base = Train(epochs=4, lr=0.01).apply(
        opened("zoo:vgg(width=32)", digits, tmp_path / "in"), context(digits, tmp_path / "base")
    )
    small = Student(share=0.3).apply(base, context(digits, tmp_path / "student"))
    wider = WIDTHS[WIDTHS.index(small.notes["student"]["width"]) + 1]
    larger = opened(f"zoo:resnet(width={wider})", digits, tmp_path / "wider").facts.operations
    assert small.facts.operations <= 0.3 * base.facts.operations < larger
    assert small.facts.cut == pytest.approx(1 - small.facts.operations / base.facts.operations)
    assert (small.main.signature, small.frontend, small.program) == (base.main.signature, base.frontend, base.program)
    taught = Distill(epochs=4, lr=0.01).apply(small, replace(context(digits, tmp_path / "taught"), base=base))
    accuracy = [
        evaluate(artefact.load(one.main), digits, "validation", digits.task.metric("accuracy"))
        for one in (small, taught)
    ]
    assert accuracy[0] < 0.3 < 0.85 < accuracy[1]
    again = Student(share=0.3).apply(base, context(digits, tmp_path / "again"))
    batch = artefact.example(digits)
    assert (Net.load(again).answer(batch)["output"] == Net.load(small).answer(batch)["output"]).all()


def test_refusals(digits, tmp_path):
    model = opened("zoo:mlp(width=8)", digits, tmp_path / "in")
    with pytest.raises(Refused, match=r"a resnet of width 8 takes \d+ operations, more than"):
        Student().apply(model, context(digits, tmp_path / "wide"))
    with pytest.raises(Refused, match=r"the student cannot be made: .*takes a person's number"):
        Student(net="two_tower", share=0.9).apply(model, context(digits, tmp_path / "other"))
    with pytest.raises(UnknownName, match="unknown zoo net 'resnt'; did you mean resnet"):
        Student(net="resnt").apply(model, context(digits, tmp_path / "typing"))
    words = opened("bert(layers=2)", texts(), tmp_path / "words")
    with pytest.raises(Refused, match="takes one input, texts gives input_ids, attention_mask"):
        Student(net="gru").apply(words, context(texts(), tmp_path / "gru"))
    assert Student().refuses(opened("zoo:lstm(width=8)", sequences(), tmp_path / "lstm"), HERE) is None
    with pytest.raises(RecipeError, match="share is above 0 and below 1"):
        Step.parse("student(share=1.0)").build(Student)


def test_offered_for_deep_nets_alone_and_once():
    deep = Facts("torch", 3_000_000, 30_000_000, {"conv": 49, "norm": 49, "linear": 1})
    shares = [choice.share for choice in Student.choices(deep, HERE)]
    assert shares == [0.3, 0.1]
    after = Student(share=0.1).predict(deep, HERE)
    assert (after.operations, after.cut, after.quality_loss) == (3_000_000, 0.9, 1.0)
    assert Student.choices(replace(after, cut=0.0), HERE) == ()
    assert Student.choices(replace(deep, cut=0.5), HERE) == ()
    assert Student.choices(replace(deep, layers={"linear": 30}), HERE) == ()
