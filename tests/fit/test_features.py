import numpy as np
import pytest
import torch
from torch import nn

from trimtab.fit.features import Features, blocks
from trimtab.fit.loop import fit
from trimtab.fit.program import Net
from trimtab.fit.settings import Settings, Surroundings
from trimtab.sources.zoo import resnet, vgg
from trimtab.values.task import Batch


def encoder(width, depth, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Linear(4, width), nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))


def test_finds_layers_stages_and_convolutions():
    assert [type(m).__name__ for m in blocks(encoder(8, 3))] == ["TransformerEncoderLayer"] * 3
    assert [type(m).__name__ for m in blocks(resnet((1, 8, 8), 10, 8, 2))] == ["Residual"] * 6
    plain = vgg((1, 8, 8), 10, 8, 1)
    assert blocks(plain) == [m for m in plain if isinstance(m, nn.Conv2d)][:-1]
    assert blocks(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == []


def test_blocks_follow_evenly_spaced_ones_and_padding_does_not_count():
    pupil, teacher = encoder(8, 2), encoder(16, 6, 1)
    sequence, mask = np.ones((2, 3, 4), np.float32), np.array([[1, 1, 1], [1, 0, 0]])
    batch = Batch({"sequence": sequence}, None)

    class First(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, sequence, attention_mask=None):
            return self.body(sequence)

    nets = Net.of(First(pupil)), Net.of(First(teacher))
    features = Features(*nets, batch)
    assert features.pairs == 2
    assert [(m.in_features, m.out_features) for m in features.maps] == [(8, 16)] * 2
    layers = teacher[1].layers
    assert [len(layer._forward_hooks) for layer in layers] == [0, 0, 1, 0, 0, 1]
    masked = Batch({"sequence": sequence, "attention_mask": mask}, None)
    for net in nets:
        net(masked)
    before = features.loss(masked)
    sequence[1, 2] = 9.0
    features.seen["pupil"][0].data[1, 2] += 7.0
    features.seen["teacher"][1].data[1, 1] += 7.0
    assert torch.equal(features.loss(masked), before)
    features.seen["pupil"][0].data[1, 0] += 7.0
    assert features.loss(masked) != before
    features.close()
    assert not any(layer._forward_hooks for layer in layers)


def test_a_linear_map_of_the_teacher_is_no_difference():
    teacher = Net.of(resnet((1, 8, 8), 10, 8, 1))
    batch = Batch({"image": np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)}, None)
    features = Features(teacher, teacher, batch)
    teacher(batch)
    for projection in features.maps:
        nn.init.eye_(projection.weight), nn.init.zeros_(projection.bias)
    assert features.loss(batch).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_features_come_closer_in_training_and_leave_no_trace(view):
    teacher, pupil = resnet((1, 8, 8), 10, 16, 1), resnet((1, 8, 8), 10, 8, 1)
    names, batch = list(pupil.state_dict()), view.task.collate(view.split("train"))

    def difference(net):
        """Return the share of the teacher's last block that no linear map of the net's explains."""
        seen = {}
        for key, module in (("own", net), ("its", teacher)):
            hook = blocks(module)[-1].register_forward_hook(lambda m, i, o, key=key: seen.update({key: o.mean((2, 3))}))
            with torch.no_grad():
                module.eval()(torch.from_numpy(batch.inputs["image"]))
            hook.remove()
        own = torch.cat([seen["own"], torch.ones(len(seen["own"]), 1)], 1)
        rest = seen["its"] - own @ torch.linalg.lstsq(own, seen["its"]).solution
        return float(rest.var() / seen["its"].var())

    fit(teacher, view, Settings(epochs=3))
    untaught = difference(pupil)
    report = fit(pupil, view, Settings(epochs=6, features=1.0, alpha=0.5), teacher=teacher)
    assert report.notes[0] == "features of 3 blocks matched"
    assert difference(pupil) < untaught
    assert list(pupil.state_dict()) == names
    assert not any(module._forward_hooks for net in (teacher, pupil) for module in net.modules())


def test_a_teacher_whose_answers_are_not_followed_still_shows_its_features(view):
    teacher, pupil = resnet((1, 8, 8), 10, 16, 1), resnet((1, 8, 8), 10, 8, 1)
    report = fit(pupil, view, Settings(steps=3, batch=7, features=1.0, alpha=0.0), teacher=teacher)
    assert report.steps == 3


def test_nets_without_blocks_say_so(view):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    report = fit(
        flat, view, Settings(steps=1, features=1.0, alpha=1.0), teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    )
    assert "no block repeats in these nets: no features to match" in report.notes


def test_goes_on_with_its_projections_to_the_same_bits(view, tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.fit.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("trimtab.fit.loop.CHECKPOINT_SHARE", 1e9)
    settings = Settings(steps=6, features=1.0, alpha=0.5)
    whole, broken, resumed, teacher = (vgg((1, 8, 8), 10, width, 1) for width in (4, 4, 4, 8))
    for net in (broken, resumed):
        net.load_state_dict(whole.state_dict())
    fit(whole, view, settings, teacher=teacher)

    def stop(what, share):
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(broken, view, settings, Surroundings(keep=tmp_path, progress=stop), teacher)
    assert "resumed at step 3" in fit(resumed, view, settings, Surroundings(keep=tmp_path), teacher).notes
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
