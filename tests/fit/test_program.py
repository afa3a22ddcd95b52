from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fit_toys import STOP, Backwards, Sums, greedy, scan
from trimtab.errors import DataError, Refused
from trimtab.fit.loop import evaluate, fit
from trimtab.fit.program import Net, unfit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.values.model import Cascade
from trimtab.values.task import Batch, TaskView

WORDS, SUMS = TaskView(Backwards()), TaskView(Sums())
METRIC = Backwards().metrics[0]


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    return greedy(tmp_path_factory.mktemp("greedy"))


def test_forced_logits_are_those_of_decoding_the_same_tokens(speller):
    net = Net.load(speller)
    letters = WORDS.task.collate(WORDS.split("train")[:9]).inputs["letters"]
    said = net.answer(Batch({"letters": letters}, None))
    tokens, lengths = said["tokens"], said["lengths"]
    targets = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, -1)
    with torch.no_grad():
        chances = net.scores(Batch({"letters": letters}, targets)).log_softmax(-1).numpy()
    kept = targets >= 0
    chosen = np.take_along_axis(chances, tokens[..., None], 2)[..., 0]
    assert kept.sum() > 9
    np.testing.assert_allclose(chosen[kept], said["log_probability"][kept], atol=1e-5)
    assert (chances.argmax(-1)[kept] == tokens[kept]).all()
    assert (tokens[~kept] == STOP).all()


def test_gradients_reach_every_part_and_tokens_are_needed(speller):
    net = Net.load(speller, editable=True)
    batch = WORDS.task.collate(WORDS.split("train")[:4])
    net.scores(batch).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with pytest.raises(DataError, match="a decoder learns from target tokens"):
        net(replace(batch, targets=None))
    with pytest.raises(DataError, match=r"part 'encoder' takes letters; it got words"):
        net(Batch({"words": batch.inputs["letters"]}, batch.targets))


def test_a_scan_in_torch_is_the_scan_that_counts(tmp_path):
    net = Net.load(scan(tmp_path))
    batch = SUMS.task.collate(SUMS.split("train")[:5])
    with torch.no_grad():
        mine = net(batch)
    told = net.answer(batch)
    assert mine["output"].shape == (5, 4)
    for name, array in told.items():
        np.testing.assert_allclose(mine[name].numpy(), array, atol=1e-6)


def test_a_cascade_is_not_trained_as_one(speller):
    cascade = replace(speller, program=Cascade(("encoder",), ()))
    assert "a cascade is trained stage by stage" in str(unfit(cascade))
    with pytest.raises(Refused, match="stage by stage"):
        Net.load(cascade)(Batch({"letters": np.ones((1, 2), np.int64)}, None))
    assert unfit(speller) is None


def test_a_module_that_gives_a_mapping_is_scored_by_output():
    class Wordy(nn.Module):
        def forward(self, features):
            return {"hidden": features, "output": features * 2, "cache": None}

    batch = Batch({"features": np.ones((2, 3), np.float32)}, None)
    assert torch.equal(Net.of(Wordy()).scores(batch), torch.full((2, 3), 2.0))


@pytest.mark.slow
def test_a_decoder_learns_and_goes_on_to_the_same_bits(speller, tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.fit.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("trimtab.fit.loop.CHECKPOINT_SHARE", 1e9)
    settings = Settings(epochs=12, lr=0.02)
    whole, broken, resumed = (Net.load(speller, editable=True) for _ in range(3))
    report = fit(whole, WORDS, settings)
    assert report.history[0]["wrong"] > 0.8 > 0.5 > report.history[-1]["wrong"]
    assert report.history[-1]["wrong"] == evaluate(whole, WORDS, "validation", METRIC)
    assert "batches of like lengths: 3% of their steps are padding, 15% unsorted" in report.notes

    def stop(what, share):
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(broken, WORDS, settings, Surroundings(keep=tmp_path, progress=stop))
    again = fit(resumed, WORDS, settings, Surroundings(keep=tmp_path))
    assert again.notes[0].startswith("resumed at step")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    saved = whole.save(speller, WORDS, tmp_path / "saved", lambda facts: facts)
    loaded = Net.load(replace(speller, parts=saved))
    assert [part.facts for part in saved.values()] == [part.facts for part in speller.parts.values()]
    assert evaluate(loaded, WORDS, "validation", METRIC) == report.history[-1]["wrong"]


@pytest.mark.slow
def test_a_scan_learns(tmp_path):
    net = Net.load(scan(tmp_path), editable=True)
    before = evaluate(net, SUMS, "validation", Sums().metrics[0])
    assert fit(net, SUMS, Settings(epochs=8, lr=0.02)).history[-1]["mse"] < before / 4
