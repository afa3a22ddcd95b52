import pickle
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch

import small_data
from trimtab.apply import Workshop, folder_hash
from trimtab.errors import CorruptFile, DataError, RecipeError, UnknownName
from trimtab.fit import module as artefact
from trimtab.fit.loop import fit
from trimtab.fit.settings import Settings
from trimtab.machines import here
from trimtab.run.program import drive
from trimtab.runtimes.torch import Torch
from trimtab.sources import _zoo_efficientnet, _zoo_g2p
from trimtab.sources.zoo import BUILDERS, Zoo
from trimtab.values.registry import registry
from trimtab.values.store import Store
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


@pytest.mark.slow
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


@dataclass(frozen=True)
class Rare(Rising):
    """One token of the test split is larger than all others."""

    tokens: bool = True
    rare: int = 40

    def split(self, name):
        examples = super().split(name)
        if name == "test":
            examples[5].inputs["tokens"][0] = self.rare
        return examples


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_token_of_the_test_split_alone_has_a_row_too(tmp_path, name):
    views = {rare: TaskView(Rare(rare=rare)) for rare in (1, 40, 50)}
    models = {rare: Zoo().open(f"{name}(width=16)", tmp_path / str(rare), view) for rare, view in views.items()}
    rows = {rare: artefact.load(model.main).embed.num_embeddings for rare, model in models.items()}
    assert rows == {1: 7, 40: 41, 50: 51}
    batch = views[40].task.collate(views[40].task.split("test"))
    artefact.load(models[40].main)(*artefact.arguments(batch, models[40].main.signature))
    plain = Zoo().open(f"{name}(width=16)", tmp_path / "plain", TaskView(Rising(tokens=True)))
    assert folder_hash(plain.main.path) == folder_hash(models[1].main.path), "nothing else changed"
    shops = (Workshop(view.task, Store(tmp_path / "store"), here()) for view in views.values())
    assert len({shop.keys(f"zoo:{name}(width=16)")[0] for shop in shops}) == 3


def test_nets_without_a_table_are_not_sized_by_tokens(digits, tmp_path):
    assert Zoo().sized_by("mlp", digits) is None
    assert Zoo().sized_by("lstm", TaskView(Rising())) is None
    assert Zoo().sized_by("g2p", TaskView(small_data.cmudict(tmp_path))) is None


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
        ("resnet(width=True)", RecipeError, "width is a whole number from 1, got True"),
        ("resnet(pretrained=True)", RecipeError, "no argument 'pretrained'"),
        ("efficientnet_lite0(pretrained=1)", RecipeError, "pretrained is True or False, got 1"),
        ("efficientnet_lite0(pretrained=False)", DataError, r"a colour image \[3, H, W\], the task gives \[1, 8, 8\]"),
        ("g2p", DataError, "takes letters and length, as cmudict gives; digits gives image"),
        ("neumf", DataError, "takes a person's number, a whole number without axes"),
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


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "before_and_behind"),
    [
        (3, 2, 64, (0, 1)),
        (3, 2, 65, (1, 1)),
        (5, 2, 16, (1, 2)),
        (5, 1, 8, (2, 2)),
        (3, 2, 1, (1, 1)),
        (5, 2, 2, (1, 2)),
    ],
)
def test_padding_is_tensorflows(kernel, stride, size, before_and_behind):
    outside, inside = _zoo_efficientnet._padding(kernel, stride, (size, size))
    padded = outside(torch.ones(1, 1, size, size))
    front = inside[0] or int((padded[0, 0, :, -1 - before_and_behind[1]] == 0).int().argmin())
    assert padded.shape[2] + 2 * inside[0] == size + sum(before_and_behind)
    assert front == before_and_behind[0]


def published(net):
    """Return a net's weights under the names of the published file, with a last layer of another size."""
    own = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    parts = {name: [f"_{word}" if not word.isdigit() else word for word in name.split(".")[:-1]] for name in own}
    named = {".".join([*words, name.rpartition(".")[2]]): own[name] for name, words in parts.items()}
    return {**named, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def test_pretrained_weights_fill_everything_but_the_last_layer(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    monkeypatch.setattr(_zoo_efficientnet, "fetch", lambda parcel: path)
    other, net = (BUILDERS["efficientnet_lite0"]([3, 32, 32], 10) for _ in range(2))
    torch.save(published(other), path)
    head = net.fc.weight.clone()
    _zoo_efficientnet.fill(net)
    assert all(
        torch.equal(net.state_dict()[name], value) for name, value in other.state_dict().items() if name[:2] != "fc"
    )
    assert torch.equal(net.fc.weight, head)
    lacking = published(other)
    del lacking["_bn0.weight"]
    for content, says in (
        (lacking, "has not the weights wanted: bn0.weight"),
        ({"_bn0.weight": head}, "does not hold"),
    ):
        torch.save(content, path)
        with pytest.raises(CorruptFile, match=says):
            _zoo_efficientnet.fill(net)
    path.write_bytes(pickle.dumps(Rising(), protocol=2))
    with pytest.raises(CorruptFile, match="does not hold the weights of EfficientNet-Lite0"):
        _zoo_efficientnet.fill(net)


def write_g2p(path, width=8):
    """Write random weights as g2p-en has them, and return them."""
    random = np.random.default_rng(0)
    shapes = {"enc_emb": (29, width), "dec_emb": (74, width), "fc_w": (74, width), "fc_b": (74,)}
    for part in ("enc", "dec"):
        shapes |= {f"{part}_w_{gate}": (3 * width, width) for gate in ("ih", "hh")}
        shapes |= {f"{part}_b_{gate}": (3 * width,) for gate in ("ih", "hh")}
    arrays = {name: random.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


def gru_step(x, h, weights, part):
    """One step as the equations have it: reset, update, new."""
    (r, z, n), (hr, hz, hn) = (
        np.split(weights[f"{part}_w_{gate}"] @ given + weights[f"{part}_b_{gate}"], 3)
        for gate, given in (("ih", x), ("hh", h))
    )
    reset, update = (1 / (1 + np.exp(-value)) for value in (r + hr, z + hz))
    return (1 - update) * np.tanh(n + reset * hn) + update * h


def spell(letters, weights):
    """Return the tokens that plain numpy decodes."""
    state, token, said = np.zeros(8), 2, []
    for letter in letters:
        state = gru_step(weights["enc_emb"][letter], state, weights, "enc")
    while token != 3 and len(said) < 20:
        state = gru_step(weights["dec_emb"][token], state, weights, "dec")
        token = int((weights["fc_w"] @ state + weights["fc_b"]).argmax())
        said.append(token)
    return said


def test_g2p_says_what_its_equations_say(tmp_path, monkeypatch, machine):
    weights = write_g2p(tmp_path / "weights.npz")
    monkeypatch.setattr(_zoo_g2p, "fetch", lambda parcel: tmp_path / "weights.npz")
    monkeypatch.setattr(_zoo_g2p, "WIDTH", 8)
    view = TaskView(small_data.cmudict(tmp_path))
    model = Zoo().open("g2p(width=8)", tmp_path, view)
    examples = view.split("train")
    outputs = drive(model, Torch().load(model, machine), view.task.collate(examples).inputs)
    for example, tokens, length in zip(examples, outputs["tokens"], outputs["lengths"], strict=True):
        assert tokens[:length].tolist() == spell(example.inputs["letters"], weights)
    assert len({tuple(row) for row in outputs["tokens"].tolist()}) > 5
    with pytest.raises(RecipeError, match="the pretrained weights have width=8"):
        Zoo().open("g2p(width=16)", tmp_path / "wide", view)
    (tmp_path / "weights.npz").write_bytes(b"no archive")
    with pytest.raises(CorruptFile, match="does not hold the weights of g2p-en"):
        Zoo().open("g2p(width=8)", tmp_path / "again", view)


def test_neural_matrix_factorization_scores_every_pair(tmp_path):
    view = TaskView(small_data.movielens(tmp_path))
    model = Zoo().open("neumf(width=4, depth=2)", tmp_path, view)
    assert artefact.edited(model.main)[0]["arguments"] == {
        "shape": [], "classes": 60, "vocabulary": 30, "width": 4, "depth": 2
    }  # fmt: skip
    net = artefact.load(model.main)
    with torch.no_grad():
        scores = net(torch.tensor([3, 7]))
        pair = torch.cat([net.person_in.weight[7], net.thing_in.weight[5]])
        first = torch.cat([net.from_person.weight, net.from_thing.weight], dim=1) @ pair + net.from_person.bias
        expected = net.person.weight[7] @ net.thing.weight[5] + net.tower(torch.relu(first))
    assert scores.shape == (2, 60)
    torch.testing.assert_close(scores[1, 5], expected[0])


def fetched(ref, folder, view):
    """Open a pretrained net, or skip where its package cannot be had."""
    try:
        return Zoo().open(ref, folder, view)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_published_g2p_knows_words(tmp_path, machine):
    view = TaskView(small_data.cmudict(tmp_path))
    model = fetched("g2p", tmp_path, view)
    batch = view.task.collate(view.split("train"))
    rows = view.task.score(drive(model, Torch().load(model, machine), batch.inputs), batch)
    assert view.task.metrics[1].reduce(rows, np.ones((1, len(rows))))[0] < 0.1


@pytest.mark.slow
def test_the_published_efficientnet_knows_a_daisy():
    from PIL import Image
    from sklearn.datasets import load_sample_image

    net = BUILDERS["efficientnet_lite0"]([3, 224, 224], 1000)
    try:
        _zoo_efficientnet.fill(net)
    except DataError as error:
        pytest.skip(str(error))
    state = torch.load(_zoo_efficientnet.fetch(_zoo_efficientnet.PARCEL), weights_only=True)
    net.fc.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    photo = Image.fromarray(load_sample_image("flower.jpg")).crop((106, 0, 533, 427)).resize((224, 224))
    pixels = torch.from_numpy((np.asarray(photo, np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.no_grad():
        assert net.eval()(pixels).argmax().item() == 985
