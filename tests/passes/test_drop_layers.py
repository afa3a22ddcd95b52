import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from small_texts import write_encoder, write_reviews
from structures import HERE, context, opened, sequences, texts
from trimtab.errors import CorruptFile, RecipeError, Refused
from trimtab.fit import module as artefact
from trimtab.fit.program import Net
from trimtab.passes.drop_layers import DropLayers
from trimtab.tasks import open_task
from trimtab.values.facts import Facts
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import TaskView


@pytest.fixture(scope="module")
def view():
    return sequences()


@pytest.fixture(scope="module")
def model(view, tmp_path_factory):
    return opened("zoo:transformer(width=16, depth=4)", view, tmp_path_factory.mktemp("transformer"))


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"keep": 2, "method": "even"}, [0, 3]),
        ({"keep": 3, "method": "top"}, [0, 1, 2]),
        ({"drop": (1, 3)}, [0, 2]),
        ({"keep": 1, "method": "even"}, [0]),
    ],
)
def test_what_is_left_computes_as_before(model, view, tmp_path, arguments, left):
    small = DropLayers(**arguments).apply(model, context(view, tmp_path))
    assert small.notes["drop_layers"]["kept"] == [f"layers.layers.{index}" for index in left]
    whole = artefact.load(model.main)
    layers = [copy.deepcopy(whole.layers.layers[index]) for index in left]
    whole.layers.layers = torch.nn.ModuleList(layers)
    inputs = artefact.arguments(artefact.example(view, 4), model.main.signature)
    torch.testing.assert_close(artefact.load(small.main)(*inputs), whole(*inputs))
    assert small.facts.blocks == (len(left) if len(left) > 1 else 0)
    assert small.facts.cut == pytest.approx(1 - small.facts.operations / model.facts.operations)
    expected = DropLayers(**arguments).predict(model.facts, HERE)
    assert expected.operations == pytest.approx(small.facts.operations, rel=0.15)


def test_the_least_influential_go_first(model, view, tmp_path):
    found = context(view, tmp_path / "one", model, ("block",))
    ranked = sorted(found.statistics["block"], key=lambda name: found.statistics["block"][name][0])
    small = DropLayers(keep=2).apply(model, found)
    assert {f"main/{name}" for name in small.notes["drop_layers"]["dropped"]} == {*ranked[:2]}
    with pytest.raises(Refused, match="there are no statistics of this model"):
        DropLayers(keep=2).apply(model, context(view, tmp_path / "two"))


@pytest.mark.slow
def test_blocks_of_a_convolutional_net(tmp_path):
    view = TaskView(registry("tasks").take("digits")())
    model = opened("zoo:resnet(width=8, depth=2)", view, tmp_path / "in")
    assert model.facts.blocks == 4
    small = DropLayers(keep=1).apply(model, context(view, tmp_path / "out", model, ("block",)))
    image = torch.zeros(2, *model.main.signature.inputs[0].shape[1:])
    assert artefact.load(small.main)(image).shape == (2, 10)
    assert small.facts.parameters < model.facts.parameters


@pytest.mark.parametrize(("kind", "choice"), [("lstm", {"keep": 1}), ("gru", {"keep": 2}), ("lstm", {"drop": (1,)})])
def test_upper_levels_of_a_recurrent_layer(kind, choice, view, tmp_path):
    model = opened(f"zoo:{kind}(width=8, depth=3)", view, tmp_path / "in")
    assert model.facts.blocks == 3
    small = DropLayers(**choice).apply(model, context(view, tmp_path / "out"))
    left = choice.get("keep", 2)
    assert artefact.load(small.main).core.num_layers == left
    assert small.facts.blocks == (left if left > 1 else 0)
    expected = DropLayers(**choice).predict(model.facts, HERE)
    assert expected.operations == pytest.approx(small.facts.operations, rel=0.25)
    made = registry("passes").take("onnx")().apply(small, context(view, tmp_path / "onnx"))
    assert made.notes["onnx"]["max_difference"] < 1e-4


@pytest.mark.parametrize("choice", [{"keep": 0}, {"drop": (0,)}])
def test_the_first_level_stays(choice, view, tmp_path):
    model = opened("zoo:lstm(width=8, depth=2)", view, tmp_path / "in")
    with pytest.raises(Refused, match="the first level of a recurrent layer reads the inputs and stays"):
        DropLayers(**choice).apply(model, context(view, tmp_path / "out"))
    with pytest.raises(CorruptFile, match="has no levels other:1 to leave out"):
        DropLayers.rebuild(artefact.load(model.main), {"drop": ["other:1"]})
    with pytest.raises(CorruptFile, match="any but the first can go"):
        DropLayers.rebuild(artefact.load(model.main), {"drop": ["core:0"]})


def test_refusals_and_edits_that_do_not_fit(model, view, tmp_path):
    flat = opened("zoo:lstm(width=8, depth=1)", view, tmp_path)
    assert "this model has no two of a kind" in DropLayers().refuses(flat, HERE)
    assert DropLayers(keep=4).refuses(model, HERE) == "this model has 4 blocks already; keep is fewer"
    assert "the blocks 0 to 3, of which one must stay" in DropLayers(drop=(4,)).refuses(model, HERE)
    assert DropLayers(keep=2).refuses(model, HERE) is None
    with pytest.raises(CorruptFile, match="has no block"):
        DropLayers.rebuild(torch.nn.Linear(2, 2), {"drop": ["layers.9"]})


def test_choices_are_few_and_predictions_follow():
    facts = Facts("torch", 1000, 10_000, {"attention": 6}, blocks=6)
    choices = DropLayers.choices(facts, HERE)
    assert [choice.keep for choice in choices] == [4, 3, 2, 1]
    losses = [choice.predict(facts, HERE).quality_loss for choice in choices]
    assert losses == sorted(losses)
    assert DropLayers.choices(choices[0].predict(facts, HERE), HERE) == ()
    reader = replace(facts, layers={"attention": 6, "linear": 38, "norm": 13, "embedding": 3})
    assert [choice.keep for choice in DropLayers.choices(reader, HERE)] == [4, 3, 2, 1, 0]
    words = DropLayers(keep=0).predict(reader, HERE)
    assert (words.operations, words.layers) == (100, {"attention": 0, "linear": 0, "norm": 0, "embedding": 3})
    assert DropLayers.choices(Facts("torch", 1, 1), HERE) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("drop_layers(keep=-1)", "keep is a number of blocks from 0"),
        ("drop_layers(keep=2, drop=(1,))", "give keep or drop, not both"),
        ("drop_layers(drop=(1, 1))", "drop names different blocks"),
        ("drop_layers(method='luck')", "method is one of importance, even, top"),
    ],
)
def test_settings_that_mean_nothing(text, says):
    with pytest.raises(RecipeError, match=says):
        Step.parse(text).build(DropLayers)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_an_encoder_without_layers_answers_from_the_mean_of_its_words(pooling, tmp_path):
    folder, reviews = write_encoder(tmp_path / "encoder"), write_reviews(tmp_path / "reviews.csv")
    view = TaskView(open_task(f"text:{reviews}(text='review', target='label', tokenizer='{folder}', max_length=12)"))
    model = opened(f"hf:{folder}(pooling='{pooling}')", view, tmp_path / "in")
    small = DropLayers(keep=0).apply(model, context(view, tmp_path / "out"))
    net = artefact.load(small.main)
    batch = artefact.example(view, 8)
    assert len(set(batch.inputs["attention_mask"].sum(1))) > 1, "of different lengths"
    tokens, mask = artefact.arguments(batch, model.main.signature)
    states = net.model.embeddings(tokens)
    mean = torch.stack([each[keep.bool()].mean(0) for each, keep in zip(states, mask, strict=True)])
    torch.testing.assert_close(net(tokens, mask), net.head(mean))
    assert 0.99 < small.facts.cut < 1
    made = registry("passes").take("onnx")().apply(small, context(view, tmp_path / "onnx"))
    assert made.notes["onnx"]["max_difference"] < 1e-4


@pytest.mark.slow
def test_an_encoder_of_the_library(tmp_path):
    view = texts()
    model = opened("bert(layers=4)", view, tmp_path / "in")
    small = DropLayers(keep=2).apply(model, context(view, tmp_path / "out", model, ("block",)))
    net = artefact.load(small.main)
    assert len(net.net.bert.encoder.layer) == net.net.config.num_hidden_layers == 2
    made = registry("passes").take("onnx")(exporter="torchscript").apply(small, context(view, tmp_path / "onnx"))
    assert made.notes["onnx"]["max_difference"] < 1e-4
    assert Net.load(small).answer(artefact.example(view))["output"].shape == (2, 3)
    words = Net.load(DropLayers(keep=0).apply(model, context(view, tmp_path / "words")))
    batch = view.task.collate(view.split("train")[:4])
    assert not batch.inputs["attention_mask"].all(), "some are padded"
    together = words.answer(batch)["output"]
    for number, text in enumerate(view.split("train")[each] for each in range(4)):
        alone = words.answer(view.task.collate([text]))["output"]
        np.testing.assert_allclose(alone[0], together[number], rtol=1e-4, atol=1e-6)
