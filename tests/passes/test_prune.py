import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trimtab.errors import RecipeError, Refused
from trimtab.fit import module as artefact
from trimtab.passes import Context
from trimtab.passes.prune import Prune
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
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


@pytest.mark.parametrize("name", ["vgg(width=16, depth=1)", "mlp"])
def test_plain_nets_too(opened, view, tmp_path, name):
    model = opened(name)
    small = pruned(model, view, tmp_path / "out", ratio=0.5)
    assert small.facts.operations / model.facts.operations == pytest.approx(0.5, abs=0.1)
    image = torch.zeros(2, *model.main.signature.inputs[0].shape[1:])
    assert artefact.load(small.main)(image).shape == (2, 10)


def test_widths_stay_multiples_of_eight_and_no_layer_dies(opened, view, tmp_path):
    small = pruned(opened("resnet"), view, tmp_path / "out", ratio=0.95)
    widths = [layer.out_channels for layer in artefact.load(small.main).modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(width % 8 == 0 and width >= 8 for width in widths)


def test_refuses_what_it_cannot_cut(opened, view, tmp_path):
    model = opened("mlp")
    recurrent = replace(model.main, facts=replace(model.facts, layers={"lstm": 1, "linear": 1, "gru": 2}))
    refusal = Prune().refuses(model.map_parts({"main": recurrent}), HERE)
    assert refusal == "prune removes channels of convolutions and linear layers; this model has 1 lstm, 2 gru"
    assert Prune().refuses(model, HERE) is None
    with pytest.raises(Refused, match=r"nothing can be removed at ratio 0.5: .* has no scale to rank its channels by"):
        pruned(model, view, tmp_path / "out", importance="batch_norm")


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
        assert len(set(values)) == len(values)
    assert Prune.choices(expected[0], HERE) == ()
    assert Prune.choices(Facts("torch", 1, 1, {"lstm": 1}), HERE) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [("prune(1.5)", "ratio is above 0 and below 1"), ("prune(scope='all')", "scope is one of global, layer")],
)
def test_settings_that_mean_nothing(text, says):
    with pytest.raises(RecipeError, match=says):
        Step.parse(text).build(Prune)
