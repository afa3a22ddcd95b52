import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from structures import Spelling, context, sequences, speller, texts
from structures import opened as from_source
from trimtab.errors import RecipeError, Refused
from trimtab.fit import module as artefact
from trimtab.fit.program import Net
from trimtab.fit.proof import compare
from trimtab.passes import Context
from trimtab.passes.prune import Prune
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = Machine("here", 1)


@pytest.fixture(scope="module")
def view():
    return TaskView(registry("tasks").take("digits")())


@pytest.fixture
def opened(view, tmp_path):
    def open_net(ref):
        return registry("sources").take("zoo")().open(ref, tmp_path / ref.partition("(")[0], view)

    return open_net


def pruned(model, view, folder, **arguments):
    return Prune(**arguments).apply(model, Context(view, Path(folder), HERE))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(("scope", "importance"), [("global", "magnitude"), ("layer", "batch_norm")])
def test_removes_the_asked_share_of_operations(opened, view, tmp_path, ratio, scope, importance):
    model = opened("resnet")
    small = pruned(model, view, tmp_path / "out", ratio=ratio, scope=scope, importance=importance)
    removed = 1 - small.facts.operations / model.facts.operations
    assert removed == pytest.approx(ratio, abs=0.06)
    assert small.facts.cut == pytest.approx(removed)
    assert small.facts.parameters < model.facts.parameters
    assert small.facts.quality_loss > 0
    notes = small.notes["prune"]
    assert notes["left_alone"] == {"8": "gives the model's output"}
    assert notes["operations"] == [model.facts.operations, small.facts.operations]
    json.dumps(small.notes)


@pytest.mark.slow
def test_the_artefact_is_rebuilt_from_data_and_prunes_again(opened, view, tmp_path):
    model = opened("resnet(width=16)")
    once = pruned(model, view, tmp_path / "one", ratio=0.4)
    twice = pruned(once, view, tmp_path / "two", ratio=0.4)
    build, edits = artefact.edited(twice.main)
    assert build == artefact.edited(model.main)[0]
    assert [edit["by"] for edit in edits] == ["prune", "prune"]
    assert twice.facts.cut > once.facts.cut
    net = artefact.load(twice.main)
    assert sum(parameter.numel() for parameter in net.parameters()) == twice.facts.parameters
    widths = [layer.out_channels for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert min(widths) >= 4
    assert net(torch.zeros(3, *model.main.signature.inputs[0].shape[1:])).shape == (3, 10)


@pytest.mark.parametrize("name", [pytest.param("vgg(width=16, depth=1)", marks=pytest.mark.slow), "mlp"])
def test_plain_nets_too(opened, view, tmp_path, name):
    model = opened(name)
    small = pruned(model, view, tmp_path / "out", ratio=0.5)
    assert small.facts.operations / model.facts.operations == pytest.approx(0.5, abs=0.1)
    image = torch.zeros(2, *model.main.signature.inputs[0].shape[1:])
    assert artefact.load(small.main)(image).shape == (2, 10)


@pytest.mark.slow
def test_widths_stay_multiples_of_eight_and_no_layer_dies(opened, view, tmp_path):
    small = pruned(opened("resnet"), view, tmp_path / "out", ratio=0.95)
    widths = [layer.out_channels for layer in artefact.load(small.main).modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(width % 8 == 0 and width >= 8 for width in widths)


def test_refuses_what_it_cannot_cut(opened, view, tmp_path):
    model = opened("mlp")
    bare = replace(model.main, facts=replace(model.facts, layers={"norm": 1}))
    refusal = Prune().refuses(model.map_parts({"main": bare}), HERE)
    assert refusal == "prune removes units of conv, linear, lstm, gru layers; this model has none"
    assert "has none" in Prune(of="vocabulary").refuses(model, HERE)
    assert Prune().refuses(model, HERE) is None
    with pytest.raises(Refused, match=r"nothing can be removed at ratio 0.5: .* has no scale to rank its channels by"):
        pruned(model, view, tmp_path / "out", importance="batch_norm")
    with pytest.raises(Refused, match="this model has no hidden that prune can find"):
        pruned(model, view, tmp_path / "out", of="hidden")
    with pytest.raises(Refused, match="there are no statistics of this model"):
        pruned(model, view, tmp_path / "out", importance="taylor")


def test_an_edit_that_does_not_fit_is_refused(opened, view, tmp_path):
    small = pruned(opened("mlp"), view, tmp_path / "out")
    path = small.main.path / artefact.TORCH_FILE
    data = json.loads(path.read_text())
    data["edits"][0]["edit"]["cuts"][0][0] = "nowhere"
    path.write_text(json.dumps(data))
    with pytest.raises(Exception, match="the recorded cut of nowhere does not fit"):
        artefact.load(small.main)


def test_choices_grow_and_predictions_follow(opened):
    facts = Facts("torch", 1000, 10_000, {"conv": 3})
    expected = [choice.predict(facts, HERE) for choice in Prune.choices(facts, HERE)]
    assert len(expected) >= 3
    for name, rises in (("operations", False), ("parameters", False), ("quality_loss", True), ("cut", True)):
        values = [getattr(one, name) for one in expected]
        assert values == sorted(values, reverse=not rises)
    assert {choice.scope for choice in Prune.choices(facts, HERE) if choice.ratio > 0.9} == {"layer"}
    assert Prune.choices(expected[0], HERE) == ()
    assert Prune.choices(Facts("torch", 1, 1, {"norm": 1}), HERE) == ()
    for kinds, by in (({"lstm": 1, "linear": 1}, {"operations"}), ({"attention": 2, "linear": 8}, {"time"})):
        choices = Prune.choices(Facts("torch", 1000, 10_000, kinds), HERE)
        assert {choice.by for choice in choices} == by
        assert [choice.ratio for choice in choices] == sorted(choice.ratio for choice in choices)
    words = Facts(
        "torch", 1000, 10_000, {"attention": 2, "linear": 8, "embedding": 1}, parameters_by={"embedding": 800}
    )
    first = Prune.choices(words, HERE)[0]
    smaller = first.predict(words, HERE)
    assert (first.of, smaller.parameters, smaller.parameters_by, smaller.cut) == (
        "vocabulary",
        600,
        {"embedding": 400},
        0,
    )
    assert Prune.choices(replace(words, cut=0.5), HERE) == ()
    assert Prune.choices(replace(words, cut=0.9, layers={"attention": 0, "embedding": 1}), HERE) == (first,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prune(1.5)", "ratio is above 0 and below 1"),
        ("prune(scope='all')", "scope is one of global, layer"),
        ("prune(of='rows')", "of is one of channels, heads"),
        ("prune(by='luck')", "by is one of operations, time"),
    ],
)
def test_settings_that_mean_nothing(text, says):
    with pytest.raises(RecipeError, match=says):
        Step.parse(text).build(Prune)


@pytest.mark.slow
def test_recurrent_nets_lose_hidden_units_and_are_rebuilt(tmp_path):
    view = sequences()
    model = from_source("zoo:lstm(width=32, depth=2)", view, tmp_path)
    small = Prune(of="hidden", ratio=0.75).apply(model, context(view, tmp_path / "out", model))
    assert small.notes["prune"]["removed"] == {"core": 16}
    net = artefact.load(small.main)
    assert (net.core.hidden_size, net.core.num_layers, net.head.in_features) == (16, 2, 16)
    assert small.facts.operations < 0.4 * model.facts.operations
    timed = Prune(importance="taylor", by="time").apply(
        model, context(view, tmp_path / "timed", model, ("taylor", "time"))
    )
    assert timed.notes["prune"]["kinds"] == ["hidden"]
    assert timed.notes["prune"]["left_alone"] == {"head": "gives the model's output"}


def test_a_model_of_two_parts_keeps_one_state(tmp_path):
    view = TaskView(Spelling())
    small = Prune().apply(speller(tmp_path / "in"), context(view, tmp_path))
    small.save(tmp_path)
    again = Model.open(tmp_path)
    states = [again.parts["encoder"].signature.outputs[0], *again.parts["decoder"].signature.outputs[1:]]
    assert {spec.shape for spec in (*states, again.parts["decoder"].signature.inputs[1])} == {("batch", 16)}
    answer = Net.load(again).answer(next(view.batches("validation", 5)))
    assert len(answer["tokens"]) == 5


def test_rows_that_no_text_needs_go(tmp_path):
    view = texts()
    (tmp_path / "net.py").write_text(WORDS)
    model = from_source("build", view, tmp_path / "in", tmp_path / "net.py")
    small = Prune(of="vocabulary").apply(model, context(view, tmp_path / "out"))
    kept = {int(i) for batch in view.batches("train", 8) for i in batch.inputs["input_ids"].flatten()}
    assert small.notes["prune"]["removed"] == {"words": 60 - len(kept)}
    assert small.notes["prune"]["left_alone"] == {"places": "reads ids that are made inside the model"}
    assert small.facts.cut == 0
    batch = artefact.example(view, 5)
    whole, cut = (Net.load(one).answer(batch)["output"] for one in (model, small))
    assert whole == pytest.approx(cut)
    with pytest.raises(Refused, match=r"no row of a vocabulary can be removed: .*words has no unseen rows"):
        Prune(of="vocabulary").apply(small_vocabulary(tmp_path, view, len(kept)), context(view, tmp_path / "none"))


@pytest.mark.parametrize(
    ("reads", "gives", "reason"),
    [
        (
            "self.words(input_ids)",
            "x @ self.words.weight.T",
            "of its vocabulary this model cannot lose any: the smaller",
        ),
        ("self.words(input_ids) + self.words(torch.tensor([59]))", "self.head(x)", "reads ids that are made inside"),
        ("self.words(input_ids) + self.words(input_ids + 1)", "self.head(x)", "reads ids that are made inside"),
    ],
)
def test_rows_that_are_read_in_another_way_too_stay(tmp_path, reads, gives, reason):
    view = texts()
    net = WORDS.replace("self.words(input_ids)", reads).replace("x * attention_mask.unsqueeze(2)).sum(1)", "HERE")
    summed = f"x = (x * attention_mask.unsqueeze(2)).sum(1)\n        return {gives}"
    net = net.replace("return self.head((HERE)", summed)
    (tmp_path / "net.py").write_text(net)
    model = from_source("build", view, tmp_path / "in", tmp_path / "net.py")
    with pytest.raises(Refused, match=reason):
        Prune(of="vocabulary").apply(model, context(view, tmp_path / "out"))


def test_an_answer_of_another_size_is_not_the_same():
    wanted = {"output": np.ones((2, 3)), "embedding": np.ones((2, 8))}
    given = {"output": np.ones((2, 3)), "embedding": np.ones((2, 5))}
    assert "gives embedding in another shape" in compare(wanted, given)
    assert compare(wanted, given, {"embedding"}) == ""
    assert "computes something else" in compare(wanted, {**wanted, "embedding": np.zeros((2, 8))}, {"embedding"})


WORDS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, ids):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(ids, 4), nn.Embedding(32, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        return self.head((x * attention_mask.unsqueeze(2)).sum(1))

def build(ids=60):
    return Net(ids)
"""


def small_vocabulary(folder, view, ids):
    return from_source(f"build(ids={ids})", view, folder / "few", folder / "net.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [{}, {"of": "heads"}, {"of": "width"}, {"of": "vocabulary"}, {"importance": "taylor", "by": "time"}],
    ids=str,
)
def test_an_encoder_of_the_library_is_pruned_and_exported(arguments, tmp_path):
    view = texts()
    model = from_source("bert", view, tmp_path / "in")
    kinds = ("taylor", "time") if arguments.get("by") else ()
    small = Prune(**arguments).apply(model, context(view, tmp_path / "out", model, kinds))
    assert small.facts.parameters < model.facts.parameters
    export = registry("passes").take("onnx")(exporter="torchscript")
    made = export.apply(small, context(view, tmp_path / "onnx"))
    assert made.format == "onnx"
    assert made.notes["onnx"]["max_difference"] < 1e-4


@pytest.mark.slow
def test_a_recurrent_net_is_pruned_and_exported(tmp_path):
    view = sequences()
    model = from_source("zoo:lstm(width=32, depth=2)", view, tmp_path / "in")
    small = Prune(of="hidden").apply(model, context(view, tmp_path / "out"))
    made = registry("passes").take("onnx")(exporter="torchscript").apply(small, context(view, tmp_path / "onnx"))
    assert made.notes["onnx"]["max_difference"] < 1e-4
