from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from structures import Spelling, opened, sequences, speller
from trimtab.errors import DataError
from trimtab.fit import module as artefact
from trimtab.fit import statistics
from trimtab.fit.cost import costs
from trimtab.fit.program import Net
from trimtab.fit.statistics import KINDS, collect
from trimtab.fit.units import Group, Item
from trimtab.values.registry import registry
from trimtab.values.task import TaskView


@pytest.fixture(scope="module")
def digits():
    return TaskView(registry("tasks").take("digits")())


def test_moments_and_taylor_are_what_they_say(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "EXAMPLES", 8)
    model = opened("zoo:mlp(width=8, depth=1)", digits, tmp_path)
    found = collect(model, digits, ("input_moment", "taylor"), 0)
    chosen = np.random.default_rng(0).permutation(len(digits.split("train")))[:8]
    batch = digits.task.collate([digits.split("train")[int(i)] for i in chosen])
    pixels = batch.inputs["image"].reshape(8, -1)
    np.testing.assert_allclose(found["input_moment"]["main/1"], pixels.T @ pixels / 8, rtol=1e-4, atol=1e-6)
    # To first order, the loss that silencing a column costs: exact in the limit of a small column.
    net = artefact.load(model.main)
    image, targets = torch.from_numpy(batch.inputs["image"]), torch.from_numpy(batch.targets)
    net.requires_grad_(False)
    before = F.cross_entropy(net(image), targets)
    for column in (1, 5):
        net[3].weight[:, column] *= 0.99
        change = abs(float(F.cross_entropy(net(image), targets) - before))
        net[3].weight[:, column] /= 0.99
        assert change / 0.01 == pytest.approx(float(found["taylor"]["main/3.weight"][column]), rel=0.05, abs=1e-4)


def test_every_kind_of_a_net_with_attention_blocks_and_padding(tmp_path):
    view = sequences()
    model = opened("zoo:transformer(width=32, depth=2)", view, tmp_path)
    found = collect(model, view, KINDS, 0)
    assert set(found) == set(KINDS)
    layer = "main/layers.layers.0"
    assert {f"{layer}.linear1", f"{layer}.self_attn.query", "main/head"} <= set(found["input_moment"])
    assert found["taylor"][f"{layer}.self_attn.output.weight"].shape == (32,)
    assert set(found["block"]) == {"main/layers.layers.0", "main/layers.layers.1"}
    assert all(0 <= float(value[0]) <= 2 for value in found["block"].values())
    assert {layer + ".self_attn", layer + ".linear2"} <= set(found["time"])
    assert all(
        array.dtype == np.float32 and np.isfinite(array).all() for kind in found.values() for array in kind.values()
    )
    again = collect(model, view, KINDS[:3], 0)
    assert all(np.array_equal(array, found[kind][name]) for kind in again for name, array in again[kind].items())


def test_convolutions_read_patches_or_channels(digits, tmp_path, monkeypatch):
    model = opened("zoo:resnet(width=8)", digits, tmp_path)
    monkeypatch.setattr(statistics, "EXAMPLES", 8)
    whole = collect(model, digits, ("input_moment",), 0)["input_moment"]
    assert whole["main/0"].shape == (9, 9)
    assert whole["main/3.body.0"].shape == (72, 72)
    monkeypatch.setattr(statistics, "LARGEST", 64)
    assert collect(model, digits, ("input_moment",), 0)["input_moment"]["main/3.body.0"].shape == (8, 8)


def test_parts_of_a_decoder_are_run_with_the_right_tokens(tmp_path):
    view = TaskView(Spelling())
    found = collect(speller(tmp_path), view, ("taylor", "time", "input_moment"), 0)
    assert found["taylor"]["decoder/cell.weight_hh"].shape == (24,)
    assert {"encoder/cell", "decoder/cell", "decoder/head"} <= set(found["time"])
    assert found["input_moment"]["decoder/head"].shape == (24, 24)


def test_values_that_are_not_finite_are_named(toy_view, tmp_path):
    class Spoiled(type(toy_view.task)):
        def split(self, name):
            examples = super().split(name)
            examples[3] = replace(examples[3], inputs={"features": np.full(5, np.nan, np.float32)})
            return examples

    model = opened("zoo:mlp(width=8)", toy_view, tmp_path)
    with pytest.raises(DataError, match="the training example train3 has values in features that are not finite"):
        collect(model, TaskView(Spoiled()), ("taylor",), 0)


def test_costs_go_with_what_is_left(digits, tmp_path):
    model = opened("zoo:mlp(width=16, depth=1)", digits, tmp_path)
    module, given = artefact.load(model.main), (torch.zeros(1, 1, 8, 8),)
    table = torch.arange(16).unsqueeze(1)
    items = (Item("main", "1", "out", table), Item("main", "3", "in", table))
    group = Group("main", "1", "channels", torch.ones(16), items)
    counted = costs({"main": module}, {"main": given}, [group], {}, {"main": 1})
    assert counted.removed([(group, list(range(8)))]) == pytest.approx(0.5)
    assert float(counted.of_unit(group)) == pytest.approx(1 / 16)
    # A layer whose time is all overhead gets cheaper by no more than its operations at the best rate seen.
    times = {"main/1": np.array([2.0, 1.0], np.float32), "main/3": np.array([2.0, 2.0], np.float32)}
    timed = costs({"main": module}, {"main": given}, [group], times, {"main": 1})
    assert timed.scaling["main", "1"] == pytest.approx(2.0)
    assert timed.scaling["main", "3"] == pytest.approx(2.0 * 160 / 1024)


def test_the_net_itself_is_left_as_it_was(tmp_path):
    view = sequences()
    model = opened("zoo:lstm(width=8)", view, tmp_path)
    before = Net.load(model).answer(artefact.example(view))
    collect(model, view, KINDS, 0)
    assert np.array_equal(Net.load(model).answer(artefact.example(view))["output"], before["output"])
