import numpy as np
import pytest
import torch
from torch import nn

from trimtab.errors import CorruptFile, Refused
from trimtab.fit import halves
from trimtab.fit import module as artefact
from trimtab.fit.program import Net
from trimtab.passes import Context
from trimtab.passes.distill import Distill
from trimtab.passes.shorten import Shorten, _head
from trimtab.passes.train import Train
from trimtab.sources import _zoo_efficientnet as efficientnet
from trimtab.sources import _zoo_nets as zoo
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = Machine("here", 1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + self.conv(x)


class Nested(nn.Module):
    """Blocks in a list inside a net that is no list; with `skip`, the image is read once more behind them."""

    def __init__(self, skip):
        super().__init__()
        self.stem, self.skip = nn.Conv2d(1, 4, 3, padding=1), skip
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 3)

    def forward(self, image):
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        x = x + image.mean() if self.skip else x
        return self.head(x.mean((2, 3)))


def test_deep_nets_get_two_depths(machine):
    facts = Facts("torch", 1000, 1000, {"conv": 25}, operations_by={"conv": 1000}, parameters_by={"conv": 1000})
    assert Shorten.choices(facts, machine) == (Shorten(share=0.6), Shorten(share=0.4))
    assert Shorten.choices(Facts("torch", 1000, 1000, {"conv": 9}), machine) == ()
    after = Shorten(share=0.4).predict(facts, machine)
    assert (after.operations, after.operations_by, after.layers) == (400, {"conv": 400}, {"conv": 10})
    assert after.cut == pytest.approx(0.6)
    assert 0 < Shorten(share=0.6).predict(facts, machine).quality_loss < after.quality_loss < 0.2
    assert Shorten.choices(after, machine) == ()
    for wrong in ({"share": 0}, {"share": 1}, {"samples": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
            Shorten(**wrong)


@torch.no_grad()
def test_the_head_is_the_least_squares_one():
    torch.manual_seed(0)
    features = torch.rand(500, 6)
    wanted = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3))
    answers = wanted(features)
    assert torch.allclose(_head(features, answers)(features), answers, atol=0.02)


@pytest.mark.slow
@torch.no_grad()
def test_blocks_are_found_wherever_the_lists_stand():
    net = efficientnet.EfficientNetLite((32, 32), 5).eval()
    image = torch.rand(2, 3, 32, 32)
    assert halves.places(net) == 16
    assert (
        1 <= halves.place(net, 0.1, (image,)) < halves.place(net, 0.5, (image,)) < halves.place(net, 0.9, (image,)) < 16
    )
    for after in (1, 9, 15):
        body, main, takes = halves.cut(net, after, ("image",))
        assert torch.allclose(main(body(image)[1]), net(image), atol=1e-4)
        assert takes == ()


def test_what_reads_past_the_cut_is_no_place_to_cut():
    assert halves.places(Nested(skip=False)) == 2
    with pytest.raises(Refused, match="nowhere: it has one block"):
        halves.cut(Nested(skip=True), 1, ("image",))


def test_a_net_that_cannot_be_traced_says_so():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(Refused, match=r"torch.fx cannot trace Branching \(symbolically traced"):
        halves.places(Branching(nn.Conv2d(1, 1, 1)))


def test_an_edit_that_does_not_fit_is_a_corrupt_file():
    with pytest.raises(CorruptFile, match="edit of shorten does not fit"):
        artefact.replay(zoo.resnet((1, 8, 8), 10, width=8), {"by": "shorten", "edit": {"after": 1}})


@pytest.mark.slow
def test_a_short_net_is_saved_recovered_and_cut_again(tmp_path):
    view = TaskView(registry("tasks").take("digits")())
    (tmp_path / "given").mkdir()
    given = registry("sources").take("zoo")().open("resnet(width=16, depth=2)", tmp_path / "given", view)
    base = Train(steps=200, lr=0.01).apply(given, Context(view, tmp_path / "base", HERE))
    made = Shorten(share=0.4).apply(base, Context(view, tmp_path / "short", HERE))
    made.save(tmp_path / "short")
    short = Model.open(tmp_path / "short")
    assert short.facts.operations <= 0.41 * base.facts.operations
    assert short.facts.cut == pytest.approx(1 - short.facts.operations / base.facts.operations)
    batch = next(view.batches("validation", 1000))

    def accuracy(model):
        return np.mean(Net.load(model).answer(batch)["output"].argmax(1) == batch.targets)

    recovered = Distill(steps=150).apply(short, Context(view, tmp_path / "out", HERE, base=base))
    assert accuracy(short) > 0.4, "the head alone tells more than chance"
    assert accuracy(recovered) > max(0.8, accuracy(short))
    assert Net.load(recovered).answer(batch)["output"].shape == (len(batch.targets), 10)


def test_other_models_are_refused(tmp_path):
    view = TaskView(registry("tasks").take("digits")())
    mlp = registry("sources").take("zoo")().open("mlp(width=8)", tmp_path, view)
    with pytest.raises(Refused, match="nets of convolutions"):
        Shorten().apply(mlp, Context(view, tmp_path / "out", HERE))
