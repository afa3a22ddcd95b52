"""Every thing in every registry keeps its contract. A new file fails here until it has a recipe for its check."""

import csv
import gzip
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from trimtab.apply import Workshop
from trimtab.errors import CorruptFile, MissingExtra, UnsafeFile
from trimtab.meters import Probe
from trimtab.passes import Context
from trimtab.recipe import bind
from trimtab.run.client import open_worker
from trimtab.testing import (
    check_meter,
    check_pass,
    check_ranks,
    check_repeats,
    check_runtime,
    check_scores,
    check_source,
    check_task,
)
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.registry import registry
from trimtab.values.store import Store
from trimtab.values.task import TaskView

NET = """
from torch import nn

def build(width=6):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
"""
MODERN = Machine("modern", 2, ("avx2", "avx512f", "avx512_vnni", "amx_bf16"), 8.0, {"fp32": 100.0, "bf16": 400.0}, 20.0)


SLOW = [("mlp", "onnx")]
"""Recipes that take seconds: here torch's newer exporter."""


def cases(kind, recipes):
    """Return (name, recipe) for every name of a registry, None where there is no recipe."""
    return [
        pytest.param(name, recipe, id=f"{name}-{number}", marks=[pytest.mark.slow] * (recipe in SLOW))
        for name in registry(kind).names()
        for number, recipe in enumerate(recipes.get(name, [None]))
    ]


def take(kind, name, recipe):
    if recipe is None:
        pytest.fail(f"{kind}/{name} has no recipe for its check: add one to {kind.upper()} in tests/test_registries.py")
    try:
        return registry(kind).take(name)
    except MissingExtra as error:
        pytest.skip(str(error))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sequences():
    """Return a task of padded sequences with their lengths, from two loaders."""
    length, targets = np.arange(36) % 5 + 2, np.arange(36) % 3
    batches = [([numbers(36, 6, 3, seed=seed), length], targets) for seed in (0, 1)]
    return registry("tasks").take("loaders")(batches[:1], batches[1:])


def small_mnist(folder):
    """Return mnist5k on ten made-up lines a digit, fetched from nowhere."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 784))
    with gzip.open(folder / "mnist.csv.gz", "wt") as file:
        csv.writer(file).writerows([*row, number % 10] for number, row in enumerate(pixels))
    kind = registry("tasks").take("mnist5k")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.tasks.mnist5k.fetch", lambda parcel: folder / "mnist.csv.gz")
        task = kind()
        task.split("train")
    return task


def pictures(folder):
    from PIL import Image

    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), np.uint8)
            Image.fromarray(pixels + np.uint8(label == "dog")).save(folder / label / f"{number}.png")
    return registry("tasks").take("images")(path=str(folder), shift=1.0, flip=True)


def saved(folder, **arrays):
    np.savez(folder / "data.npz", x=numbers(40, 3), **arrays)
    return registry("tasks").take("arrays")(path=str(folder / "data.npz"))


def table(folder, target):
    rows = [(f"{a:.3f}", "red" if a > 0 else "blue", number % 3, f"{a:.2f}") for number, a in enumerate(numbers(60))]
    with (folder / "data.csv").open("w") as file:
        csv.writer(file).writerows([("a", "colour", "kind", "amount"), *rows])
    return registry("tasks").take("table")(path=str(folder / "data.csv"), target=target, slices=("colour",))


TASKS = {
    "arrays": [
        lambda folder: saved(folder, target=np.arange(40) % 2),
        lambda folder: saved(folder, target=numbers(40, seed=1)),
        lambda folder: saved(folder),
    ],
    "digits": [lambda folder: registry("tasks").take("digits")()],
    "images": [pictures],
    "loaders": [lambda folder: sequences()],
    "mnist5k": [small_mnist],
    "table": [lambda folder: table(folder, "kind"), lambda folder: table(folder, "amount")],
    "toy": [lambda folder: registry("tasks").take("toy")(examples=90)],
}


def answers(task, batch):
    """Return answers at random, and where there are targets all right and all wrong ones."""
    if not task.labels:
        targets = np.zeros((len(batch), 4)) if batch.targets is None else batch.targets
        return {"output": targets + numbers(*targets.shape)}, {"output": targets}, {"output": targets + 9}
    one_hot = np.eye(len(task.labels), dtype=np.float32)[batch.targets]
    return {"output": numbers(*one_hot.shape)}, {"output": 5 * one_hot}, {"output": 5 * np.roll(one_hot, 1, axis=1)}


def test_a_file_without_a_recipe_fails():
    with pytest.raises(pytest.fail.Exception, match="passes/new has no recipe for its check: add one to PASSES in"):
        take("passes", "new", None)


@pytest.mark.parametrize(("name", "recipe"), cases("tasks", TASKS))
def test_tasks(name, recipe, tmp_path):
    take("tasks", name, recipe)
    task = recipe(tmp_path)
    check_task(task)
    batch = task.collate(task.split("validation"))
    random, right, wrong = answers(task, batch)
    check_scores(task, random, batch)
    check_ranks(task, right, wrong, batch)


@cache
def view_of(name):
    makers = {"toy": lambda: registry("tasks").take("toy")(examples=90), "sequences": sequences}
    return TaskView(makers[name]() if name in makers else registry("tasks").take(name)())


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(name): a model by name, made once; see MODELS."""
    store = Store(tmp_path_factory.mktemp("registries"))

    @cache
    def make(name):
        text, task = MODELS[name]
        return Workshop(view_of(task).task, store, Machine("plain", 2, ("avx2",))).open(text)

    return make


EXPORT = "onnx(exporter='torchscript')"
MODELS = {
    "null": ("null:linear", "toy"),
    "mlp": ("zoo:mlp(width=8) | train(steps=12)", "toy"),
    "resnet": ("zoo:resnet(width=8)", "digits"),
    "gru": ("zoo:gru(width=8)", "sequences"),
    "mlp onnx": (f"zoo:mlp(width=8) | train(steps=12) | {EXPORT}", "toy"),
    "resnet onnx": (f"zoo:resnet(width=8) | {EXPORT}", "digits"),
    "gru onnx": (f"zoo:gru(width=8) | {EXPORT}", "sequences"),
    "resnet int8": (f"zoo:resnet(width=8) | {EXPORT} | quantize(samples=16)", "digits"),
}


def code(folder, made):
    (folder / "net.py").write_text(NET)
    return f"{folder / 'net.py'}:build(width=4)"


def live(folder, made):
    torch = pytest.importorskip("torch")
    from trimtab.fit import module

    return module.register_live(torch.nn.Sequential(torch.nn.Linear(4, 3)))


ZOO = {"gru": "sequences", "lstm": "sequences", "mlp": "toy", "resnet": "digits", "vgg": "digits"}
ZOO |= {"transformer": "sequences"}
SOURCES = {
    "null": [(lambda folder, made: "linear", "toy")],
    "onnx": [(lambda folder, made: str(made("mlp onnx").model.main.path / "model.onnx"), "toy")],
    "torch": [(code, "toy")],
    "zoo": [(lambda folder, made, net=net: f"{net}(width=16, depth=1)", task) for net, task in ZOO.items()],
}


@pytest.mark.parametrize(("name", "recipe"), cases("sources", SOURCES))
def test_sources(name, recipe, made, tmp_path):
    source = take("sources", name, recipe)()
    ref, task = recipe
    (tmp_path / "scratch").mkdir()
    check_source(source, ref(tmp_path, made), tmp_path / "scratch", view_of(task).task)


def test_every_net_of_the_zoo_is_checked():
    pytest.importorskip("torch")
    from trimtab.sources.zoo import BUILDERS

    assert set(ZOO) == set(BUILDERS)


PASSES = {
    "distill": [("mlp", "distill(steps=4)")],
    "onnx": [("mlp", "onnx"), ("resnet", EXPORT), ("gru", EXPORT)],
    "prune": [("mlp", "prune"), ("resnet", "prune(ratio=0.3, scope='layer', importance='batch_norm')")],
    "quantize": [
        ("resnet onnx", "quantize(samples=16)"),
        ("mlp onnx", "quantize(weights=7, samples=16, calibration='percentile')"),
        ("mlp onnx", "quantize(method='dynamic')"),
    ],
    "train": [("mlp", "train(steps=4)"), ("resnet", "train(steps=2)")],
}


@pytest.mark.parametrize(("name", "recipe"), cases("passes", PASSES))
def test_passes(name, recipe, made, machine, tmp_path):
    kind = take("passes", name, recipe)
    of, text = recipe
    (step,) = bind(text).passes
    assert (type(step), kind.name()) == (kind, name)
    model = made(of).model
    context = Context(view_of(MODELS[of][1]), tmp_path, machine, base=model)
    check_repeats(step, model, context, check_pass(step, model, context))


RUNTIMES = {
    "null": [("null", "null"), ("null", "null(delay_ms=0.1)")],
    "onnxruntime": [
        ("mlp onnx", "onnxruntime"),
        ("resnet int8", "onnxruntime(threads=2)"),
        ("gru onnx", "onnxruntime"),
    ],
    "openvino": [
        ("mlp onnx", "openvino"),
        ("resnet onnx", "openvino(precision='bf16')"),
        ("resnet int8", "openvino(threads=2, hint='throughput')"),
        ("gru onnx", "openvino"),
    ],
    "torch": [("mlp", "torch"), ("resnet", "torch(threads=2)"), ("gru", "torch")],
}


@pytest.mark.parametrize(("name", "recipe"), cases("runtimes", RUNTIMES))
def test_runtimes(name, recipe, made):
    kind = take("runtimes", name, recipe)
    of, text = recipe
    runtime = bind(f"@ {text}").runtime
    assert (type(runtime), kind.name()) == (kind, name)
    model, view = made(of).model, view_of(MODELS[of][1])
    batch = next(view.batches("validation", 5))
    check_runtime(runtime, model, batch, MODERN, 0.05 if "int8" in of or "bf16" in text else 1e-3)


@pytest.mark.parametrize("name", registry("meters").names())
def test_meters(name, made, machine, null_worker):
    probe = Probe(view_of("toy"), "validation", made("null").model, machine, batch=2, seconds=0.02)
    check_meter(take("meters", name, ())(), null_worker, probe)
    check_meter(take("meters", name, ())(), null_worker, replace(probe, machine=MODERN, batch=1))


@pytest.fixture(scope="module")
def null_worker(made):
    with open_worker(made("null").folder, bind("@ null").runtime, MODERN) as worker:
        yield worker


def outside(folder, made):
    """Return a model whose weights are said to lie outside its folder."""
    import onnx

    part = made("mlp onnx").model.main
    proto = onnx.load(part.path / "model.onnx")
    (folder / "part").mkdir()
    for tensor in proto.graph.initializer:
        (folder / "secret").write_bytes(tensor.raw_data)
        entry = onnx.StringStringEntryProto(key="location", value="../secret")
        tensor.ClearField("raw_data")
        tensor.external_data.append(entry)
        tensor.data_location = onnx.TensorProto.EXTERNAL
    (folder / "part" / "model.onnx").write_bytes(proto.SerializeToString())
    return Model({"main": replace(part, path=folder / "part")})


@pytest.mark.parametrize("name", registry("runtimes").names())
def test_runtimes_of_onnx_follow_no_path_out_of_the_folder(name, made, tmp_path):
    kind = take("runtimes", name, ())
    if "onnx" not in kind.formats:
        return
    with pytest.raises(UnsafeFile, match="only a plain path inside"):
        kind().load(outside(tmp_path, made), MODERN)
    (tmp_path / "part" / "model.onnx").unlink()
    with pytest.raises(CorruptFile, match=r"cannot read .*model.onnx"):
        kind().load(Model({"main": replace(made("mlp onnx").model.main, path=tmp_path / "part")}), MODERN)
