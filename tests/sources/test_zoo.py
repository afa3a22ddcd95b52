from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch

from trimtab.errors import DataError, RecipeError, UnknownName
from trimtab.fit import module as artefact
from trimtab.fit.loop import fit
from trimtab.fit.settings import Settings
from trimtab.sources.zoo import BUILDERS, Zoo
from trimtab.values.registry import registry
from trimtab.values.task import Batch, Example, Task, TaskView


@dataclass(frozen=True)
class Rising(Task):
    """Does a sequence rise or fall? Real sums, made-up walks, padded with noise so that a missing mask shows."""

    name = "rising"
    objective = "cross_entropy"
    labels = ("falls", "rises")
    metrics = ()
    tokens: bool = False

    def split(self, name):
        random = np.random.default_rng(["train", "validation", "test"].index(name))
        return [self._example(random, str(i)) for i in range(64)]

    def _example(self, random, name):
        length, sign = int(random.integers(2, 9)), int(random.integers(2))
        steps = random.normal(2 * sign - 1, 0.5, (length, 3)).astype(np.float32)
        if self.tokens:
            return Example(name, {"tokens": (1 + sign + 2 * random.integers(0, 3, length)).astype(np.int64)}, sign)
        return Example(name, {"sequence": steps, "length": np.array(length)}, sign)

    def collate(self, chosen):
        key = "tokens" if self.tokens else "sequence"
        size = max(len(example.inputs[key]) for example in chosen)
        first = chosen[0].inputs[key]
        padded = np.full((len(chosen), size, *first.shape[1:]), 0 if self.tokens else 1e3, first.dtype)
        for row, example in zip(padded, chosen, strict=True):
            row[: len(example.inputs[key])] = example.inputs[key]
        inputs = {key: padded}
        if not self.tokens:
            inputs["length"] = np.array([example.inputs["length"] for example in chosen])
        return Batch(inputs, np.array([example.target for example in chosen]))

    def score(self, outputs, batch):
        return (outputs["output"].argmax(1) == batch.targets).astype(float)[:, None]


@pytest.fixture(scope="module")
def digits():
    return TaskView(registry("tasks").take("digits")())


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet"])
def test_image_nets_fit_the_task(digits, tmp_path, name):
    model = Zoo().open(f"{name}(width=8, depth=1)", tmp_path, digits)
    assert model.main.signature.outputs[0].shape == ("batch", 10)
    assert model.lineage == (f"zoo:{name}(width=8, depth=1)",)
    assert model.facts.parameters > 500
    assert model.facts.operations > 500
    assert artefact.edited(model.main)[0]["arguments"]["classes"] == 10


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("tokens", [False, True])
def test_sequence_nets_read_only_valid_steps_and_learn(tmp_path, name, tokens):
    view = TaskView(Rising(tokens))
    model = Zoo().open(f"{name}(width=16, depth=1)", tmp_path, view)
    net = artefact.load(model.main)
    examples = view.split("train")
    together = view.task.collate(examples[:8])
    with torch.no_grad():
        padded = net(*artefact.arguments(together, model.main.signature))
        for row, example in zip(padded, examples[:8], strict=True):
            alone = net(*artefact.arguments(view.task.collate([example]), model.main.signature))[0]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)
    report = fit(net, view, Settings(epochs=12, lr=0.01))
    assert report.history[-1]["loss"] < 0.5 * report.history[0]["loss"]
    assert model.main.signature.inputs[0].shape[:2] == ("batch", "time")


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.slow
def test_sequence_nets_go_through_onnx(tmp_path, name):
    view = TaskView(Rising())
    model = Zoo().open(f"{name}(width=16, depth=2)", tmp_path, view)
    net, path = artefact.load(model.main), tmp_path / "net.onnx"
    batch = artefact.example(view, 4)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 1: dynamic}, {0: dynamic})
    inputs = artefact.arguments(batch, model.main.signature)
    torch.onnx.export(net, inputs, path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    other = view.task.collate(view.split("validation")[:13])
    arrays = artefact.arguments(other, model.main.signature)
    fed = {node.name: array.numpy() for node, array in zip(session.get_inputs(), arrays, strict=True)}
    with torch.no_grad():
        expected = net(*arrays).numpy()
    np.testing.assert_allclose(session.run(None, fed)[0], expected, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_the_weights(digits, tmp_path):
    def weights(ref, folder):
        return artefact.load(Zoo().open(ref, tmp_path / folder, digits).main).state_dict()["1.weight"]

    one, same, other = weights("mlp", "a"), weights("mlp", "b"), weights("mlp(seed=1)", "c")
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_fingerprint_follows_the_reference():
    assert Zoo().fingerprint("mlp(width=8)") == Zoo().fingerprint(" mlp( width = 8 )")
    assert Zoo().fingerprint("mlp(width=8)") != Zoo().fingerprint("mlp(width=9)")


def test_the_default_resnet_is_a_realistic_base():
    net = BUILDERS["resnet"]([1, 28, 28], 10)
    facts = artefact.count(net.eval(), (torch.zeros(1, 1, 28, 28),))
    assert facts.parameters >= 250_000
    assert facts.operations >= 20_000_000


@pytest.mark.parametrize(
    ("ref", "error", "says"),
    [
        ("resnett", UnknownName, "did you mean resnet"),
        ("resnet(widht=3)", RecipeError, "no argument 'widht'; did you mean width"),
        ("resnet(16)", RecipeError, "takes named sizes"),
        ("resnet(width=0)", RecipeError, "width is a whole number from 1, got 0"),
        ("resnet(width=1.5)", RecipeError, "whole number"),
        ("lstm", DataError, r"takes a sequence \[T, D\] .* the task gives \[1, 8, 8\]"),
    ],
)
def test_bad_references_have_one_clear_line(digits, tmp_path, ref, error, says):
    with pytest.raises(error, match=says) as caught:
        Zoo().open(ref, tmp_path, digits)
    assert "\n" not in str(caught.value)


def test_a_net_for_images_does_not_take_sequences(tmp_path):
    with pytest.raises(DataError, match="zoo:resnet takes one input, rising gives sequence, length"):
        Zoo().open("resnet", tmp_path, TaskView(Rising()))
