import json

import pytest
import torch

from structures import HERE, context, opened, sequences, texts
from trimtab.errors import CorruptFile, RecipeError, Refused
from trimtab.fit import module as artefact
from trimtab.passes.low_rank import LowRank
from trimtab.values.facts import Facts
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

MOMENT = ("input_moment",)


@pytest.fixture(scope="module")
def digits():
    return TaskView(registry("tasks").take("digits")())


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    return opened("zoo:resnet(width=16)", digits, tmp_path_factory.mktemp("resnet"))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_removes_the_asked_share_of_operations(model, digits, tmp_path, ratio):
    small = LowRank(ratio=ratio).apply(model, context(digits, tmp_path, model, MOMENT))
    assert 1 - small.facts.operations / model.facts.operations == pytest.approx(ratio, abs=0.06)
    assert small.facts.cut > 0
    notes = small.notes["low_rank"]
    assert all(rank % 8 == 0 for rank in notes["ranks"].values())
    assert set(notes["ranks"]) == set(notes["errors"])
    assert notes["left_alone"]["0"] == "is too small to be cheaper as two"
    json.dumps(small.notes)


@pytest.mark.slow
def test_answers_of_a_mild_split_are_near(model, digits, tmp_path):
    small = LowRank(energy=0.98).apply(model, context(digits, tmp_path, model, MOMENT))
    batch = next(digits.batches("validation", 64))
    whole, split = (artefact.load(one.main)(torch.from_numpy(batch.inputs["image"])).detach() for one in (model, small))
    assert float((whole - split).norm() / whole.norm()) < 0.5
    assert small.facts.operations < model.facts.operations


def test_attention_is_split_too_and_the_artefact_rebuilt(tmp_path):
    view = sequences()
    model = opened("zoo:transformer(width=32)", view, tmp_path / "in")
    small = LowRank(ratio=0.4).apply(model, context(view, tmp_path / "out", model, MOMENT))
    assert any("self_attn" in name for name in small.notes["low_rank"]["ranks"])
    inputs = artefact.arguments(artefact.example(view, 4), model.main.signature)
    assert artefact.load(small.main)(*inputs).shape == (4, 3)
    path = small.main.path / artefact.TORCH_FILE
    data = json.loads(path.read_text())
    data["edits"][0]["edit"]["ranks"] = {"nowhere": 8}
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptFile, match="the recorded rank of nowhere does not fit"):
        artefact.load(small.main)


def test_refusals(model, digits, tmp_path):
    with pytest.raises(Refused, match="there are no statistics of this model"):
        LowRank().apply(model, context(digits, tmp_path))
    little = opened("zoo:mlp(width=4)", digits, tmp_path / "in")
    with pytest.raises(Refused, match=r"no layer is worth splitting at low_rank: 1 is too small to be cheaper as two"):
        LowRank().apply(little, context(digits, tmp_path / "out", little, MOMENT))
    assert LowRank().refuses(model, HERE) is None


def test_choices_and_predictions():
    facts = Facts("torch", 1000, 10_000, {"linear": 4}, operations_by={"linear": 9_000})
    expected = [choice.predict(facts, HERE).operations for choice in LowRank.choices(facts, HERE)]
    assert expected == [7000, 5000]
    assert LowRank.choices(Facts("torch", 1, 10, operations_by={"lstm": 9}), HERE) == ()


@pytest.mark.parametrize("text", ["low_rank(ratio=1.0)", "low_rank(energy=0.0)"])
def test_settings_that_mean_nothing(text):
    with pytest.raises(RecipeError, match="is above 0 and below 1"):
        Step.parse(text).build(LowRank)


@pytest.mark.slow
def test_an_encoder_of_the_library_is_split_and_exported(tmp_path):
    view = texts()
    model = opened("bert", view, tmp_path / "in")
    small = LowRank(ratio=0.4).apply(model, context(view, tmp_path / "out", model, MOMENT))
    made = registry("passes").take("onnx")(exporter="torchscript").apply(small, context(view, tmp_path / "onnx"))
    assert made.notes["onnx"]["max_difference"] < 1e-4
