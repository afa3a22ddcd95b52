"""Every thing in every registry keeps its contract. A new file fails here until it has a recipe for its check."""

import csv
import gzip
import os
import subprocess
import sys
import tempfile
import wave
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

import small_data
from small_texts import tokenizer_text, write_encoder, write_reviews
from step_graph import step_graph
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


SLOW = [("mlp", "onnx"), ("transformer onnx", "fuse")]
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


def small_speech(folder):
    """Return the task of speech on made-up clips, fetched from nowhere."""
    paths = [folder / f"clip{number}.wav" for number in range(20)]
    for number, path in enumerate(paths):
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((1000 * numbers(800 + 100 * number)).astype("<i2").tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.tasks.speech.clip_paths", lambda: paths)
        task = registry("tasks").take("speech")(silence=0.0)
        task.split("train")
    return task


def small_texts_task(name, folder, **stand_ins):
    """Return a task of texts with a tokenizer of a few words, fetched from nowhere."""
    (folder / "tokenizer.json").write_text(tokenizer_text())
    with pytest.MonkeyPatch.context() as patch:
        for function, stand_in in stand_ins.items():
            patch.setattr(f"trimtab.tasks.{name}.{function}", stand_in)
        task = registry("tasks").take(name)(tokenizer=str(folder))
        task.split("train")
        task.describe()
    return task


def small_sentiment(folder):
    lines = [f"{number}\t{(number % 9 - 4) / 2}\tthe film is good n{number}" for number in range(90)]
    (folder / "ratings.txt").write_text("\r\n".join(lines))
    return small_texts_task("sentiment", folder, fetch=lambda parcel: folder / "ratings.txt")


def small_newsgroups(folder):
    for split in ("train", "test"):
        posts = [f"alt.{'abc'[number % 3]}\tthe book {split} {number}" for number in range(60)]
        (folder / f"{split}.tab").write_text("\n".join(["Category\tText", "d\tstring", "class\t", *posts, ""]))
    files = [folder / "train.tab", folder / "test.tab"]
    return small_texts_task("newsgroups", folder, fetch_many=lambda parcel, names: files)


def reviews(folder, **more):
    (folder / "tokenizer.json").write_text(tokenizer_text())
    path = write_reviews(folder / "reviews.csv")
    named = {"target": "label", "text": "review", "tokenizer": str(folder), "max_length": 10}
    return registry("tasks").take("text")(str(path), **named | more)


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
    "cmudict": [small_data.cmudict],
    "digits": [lambda folder: registry("tasks").take("digits")()],
    "fashion_mnist": [small_data.fashion_mnist],
    "images": [pictures],
    "japanese_vowels": [small_data.japanese_vowels],
    "loaders": [lambda folder: sequences()],
    "mnist5k": [small_mnist],
    "movielens": [small_data.movielens],
    "newsgroups": [small_newsgroups],
    "sentiment": [small_sentiment],
    "speech": [small_speech],
    "table": [lambda folder: table(folder, "kind"), lambda folder: table(folder, "amount")],
    "text_boxes": [lambda folder: registry("tasks").take("text_boxes")(images=12, size=96)],
    "text": [reviews, lambda folder: reviews(folder, padding="max", cluster="author", slices=("part",))],
    "toy": [lambda folder: registry("tasks").take("toy")(examples=90)],
}


SHAPES = {"speech": (20,), "text_boxes": (1, 96, 96)}
"""Of the answer for one example, where it is no class and no number."""


def answers(task, batch):
    """Return answers at random, and where there are targets all right and all wrong ones."""
    if task.name in SHAPES:
        right = np.tile(np.arange(SHAPES[task.name][-1]) % 40 < 20, (len(batch), *SHAPES[task.name][:-1], 1)) * 1.0
        return {"output": numbers(*right.shape)}, {"output": right}, {"output": 1 - right}
    if task.objective == "token_nll":
        return small_data.spoken(batch)
    if task.objective == "softmax_ranking":
        return {"output": numbers(*batch.targets.shape)}, {"output": batch.targets}, {"output": -batch.targets}
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
    toy = lambda: registry("tasks").take("toy")(examples=90)  # noqa: E731
    makers = {"toy": toy, "sequences": sequences, "texts": lambda: reviews(Path(tempfile.mkdtemp()))}
    makers["large"] = lambda: small_data.fashion_mnist(Path(tempfile.mkdtemp()), size=64)
    makers["speech"] = lambda: small_speech(Path(tempfile.mkdtemp()))
    downloaded = ("cmudict", "fashion_mnist", "japanese_vowels", "movielens")
    makers |= {each: lambda each=each: getattr(small_data, each)(Path(tempfile.mkdtemp())) for each in downloaded}
    return TaskView(makers[name]() if name in makers else registry("tasks").take(name)())


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(name): a model by name, made once; see MODELS."""
    store = Store(tmp_path_factory.mktemp("registries"))

    @cache
    def make(name):
        text, task = MODELS[name]
        if name == "stepwise":
            text = f"onnx:{tmp_path_factory.mktemp('step') / 'step.onnx'}"
            onnx.save(step_graph(wide=576, answers=1), text.removeprefix("onnx:"))
        return Workshop(view_of(task).task, store, Machine("plain", 2, ("avx2",))).open(text)

    return make


EXPORT = "onnx(exporter='torchscript')"
MODELS = {
    "null": ("null:linear", "toy"),
    "mlp": ("zoo:mlp(width=8) | train(steps=12)", "toy"),
    "resnet": ("zoo:resnet(width=8)", "digits"),
    "gru": ("zoo:gru(width=8)", "sequences"),
    "wide images": ("zoo:resnet(width=8)", "large"),
    "transformer": ("zoo:transformer(width=32, depth=2)", "sequences"),
    "mlp onnx": (f"zoo:mlp(width=8) | train(steps=12) | {EXPORT}", "toy"),
    "resnet onnx": (f"zoo:resnet(width=8) | {EXPORT}", "digits"),
    "gru onnx": (f"zoo:gru(width=8) | {EXPORT}", "sequences"),
    "transformer onnx": ("zoo:transformer(width=16, depth=1) | onnx", "sequences"),
    "wide onnx": (f"zoo:resnet(width=8) | {EXPORT}", "large"),
    "greedy": (f"zoo:g2p(width=8, pretrained=False) | {EXPORT}", "cmudict"),
    "stepwise": ("onnx:", "speech"),
    "resnet int8": (f"zoo:resnet(width=8) | {EXPORT} | quantize(samples=16)", "digits"),
}


def code(folder, made):
    (folder / "net.py").write_text(NET)
    return f"{folder / 'net.py'}:build(width=4)"


def live(folder, made):
    torch = pytest.importorskip("torch")
    from trimtab.fit import module

    return module.register_live(torch.nn.Sequential(torch.nn.Linear(4, 3)))


def encoder(folder, made):
    pytest.importorskip("transformers")
    return f"{write_encoder(folder / 'encoder')}(seed=1)"


def converted(folder, made):
    openvino = pytest.importorskip("openvino")
    network = openvino.Core().read_model(made("mlp onnx").model.main.path / "model.onnx")
    openvino.save_model(network, folder / "net.xml", compress_to_fp16=False)
    return str(folder / "net.xml")


def keras_file(folder, made):
    if find_spec("keras") is None:
        pytest.skip("no Keras here")
    code = (
        "import sys, keras; from keras import layers as L\n"
        "keras.Sequential([keras.Input((4,)), L.Dense(5, activation='relu'), L.Dense(3)]).save(sys.argv[1])"
    )
    settings = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    subprocess.run([sys.executable, "-c", code, str(folder / "net.keras")], env=settings, check=True)
    return str(folder / "net.keras")


def saved_model(folder, made):
    if not os.environ.get("TRIMTAB_TF_PYTHON"):
        pytest.skip("TRIMTAB_TF_PYTHON names no interpreter with TensorFlow and tf2onnx")
    code = """if True:
        import sys, tensorflow as tf
        net = tf.Module()
        net.w = tf.Variable(tf.random.Generator.from_seed(0).normal((4, 3)))
        call = tf.function(lambda x: x @ net.w, [tf.TensorSpec([None, 4], tf.float32)])
        tf.saved_model.save(net, sys.argv[1], signatures={"serving_default": call})
    """
    subprocess.run([os.environ["TRIMTAB_TF_PYTHON"], "-c", code, str(folder / "net")], check=True)
    return str(folder / "net")


KERAS, SAVED = (keras_file, "toy"), (saved_model, "toy")
SLOW += [KERAS, SAVED]
HF = (encoder, "texts")
SLOW.append(HF)
SLOW += [("resnet", "cascade(first='prune(0.5) | distill(steps=2)', loss=0.9)")]
SLOW += [("resnet", "early_exit(steps=2, loss=0.9)")]
SLOW += [("resnet onnx", "nncf(samples=16)"), ("mlp onnx", "nncf(weights=7, samples=16)")]
ZOO = {"gru": "sequences", "lstm": "sequences", "mlp": "toy", "resnet": "digits", "vgg": "digits"}
ZOO |= {"transformer": "sequences", "neumf": "movielens", "two_tower": "movielens", "g2p": "cmudict"}
ZOO |= {"efficientnet_lite0": "fashion_mnist"}
REFERENCES = {"g2p": "g2p(width=8, pretrained=False)", "efficientnet_lite0": "efficientnet_lite0(pretrained=False)"}
NETS = {
    net: (lambda folder, made, net=net: REFERENCES.get(net, f"{net}(width=16, depth=1)"), task)
    for net, task in ZOO.items()
}
SLOW.append(NETS["efficientnet_lite0"])
SOURCES = {
    "hf": [HF],
    "null": [(lambda folder, made: "linear", "toy")],
    "onnx": [(lambda folder, made: str(made("mlp onnx").model.main.path / "model.onnx"), "toy")],
    "openvino": [(converted, "toy")],
    "torch": [(code, "toy")],
    "keras": [KERAS],
    "tf": [SAVED],
    "zoo": list(NETS.values()),
}


@pytest.mark.parametrize(("name", "recipe"), cases("sources", SOURCES))
def test_sources(name, recipe, made, tmp_path):
    source = take("sources", name, recipe)()
    ref, task = recipe
    (tmp_path / "scratch").mkdir()
    check_source(source, ref(tmp_path, made), tmp_path / "scratch", view_of(task).task)


def test_every_net_of_the_zoo_is_checked():
    pytest.importorskip("torch")
    from trimtab.sources.zoo import OPENED

    assert set(ZOO) == set(OPENED)


PASSES = {
    "cascade": [("resnet", "cascade(first='prune(0.5) | distill(steps=2)', loss=0.9)")],
    "compress": [("resnet onnx", "compress"), ("transformer onnx", "compress")],
    "downscale": [("wide images", "downscale"), ("wide onnx", "downscale(scale=0.7)")],
    "truncate": [("gru", "truncate")],
    "distill": [("mlp", "distill(steps=4)")],
    "drop_layers": [("transformer", "drop_layers"), ("transformer", "drop_layers(keep=1, method='even')")],
    "early_exit": [("resnet", "early_exit(steps=2, loss=0.9)")],
    "fuse": [("transformer onnx", "fuse")],
    "low_rank": [("transformer", "low_rank"), ("transformer", "low_rank(energy=0.9)")],
    "nncf": [("resnet onnx", "nncf(samples=16)"), ("mlp onnx", "nncf(weights=7, samples=16)")],
    "onnx": [("mlp", "onnx"), ("resnet", EXPORT), ("gru", EXPORT)],
    "prune": [
        ("mlp", "prune"),
        ("resnet", "prune(ratio=0.3, scope='layer', importance='batch_norm')"),
        ("gru", "prune(of='hidden', importance='taylor')"),
        ("transformer", "prune(importance='taylor', by='time')"),
    ],
    "qat": [("mlp", "qat(steps=4)")],
    "quantize": [
        ("resnet onnx", "quantize(samples=16)"),
        ("mlp onnx", "quantize(weights=7, samples=16, calibration='percentile')"),
        ("mlp onnx", "quantize(method='dynamic')"),
    ],
    "shorten": [("resnet", "shorten"), ("wide images", "shorten(share=0.7, samples=8)")],
    "loop": [("greedy", "loop")],
    "unroll": [("stepwise", "unroll")],
    "simplify": [("resnet onnx", "simplify"), ("gru onnx", "simplify(batch=1)")],
    "train": [("mlp", "train(steps=4)"), ("resnet", "train(steps=2)")],
}


@pytest.mark.parametrize(("name", "recipe"), cases("passes", PASSES))
def test_passes(name, recipe, made, machine, tmp_path):
    kind = take("passes", name, recipe)
    of, text = recipe
    (step,) = bind(text).passes
    assert (type(step), kind.name()) == (kind, name)
    model = made(of).model
    view, scratch = view_of(MODELS[of][1]), tmp_path / "scratch"
    workshop = Workshop(view.task, Store(tmp_path / "store"), machine)
    statistics = workshop.statistics(made(of), step.wants())
    scratch.mkdir()
    make = lambda text: workshop.apply(made(of), bind(text).passes, made(of)).model  # noqa: E731
    context = Context(view, scratch, machine, base=model, statistics=statistics, make=make)
    check_repeats(step, model, context, check_pass(step, model, context))


COMPILED = ("mlp", "inductor(threads=2)")
SLOW.append(COMPILED)
RUNTIMES = {
    "inductor": [COMPILED],
    "null": [("null", "null"), ("null", "null(delay_ms=0.1)")],
    "onnxruntime": [
        ("mlp onnx", "onnxruntime"),
        ("resnet int8", "onnxruntime(threads=2, precise_int8=True, spin=True)"),
        ("gru onnx", "onnxruntime"),
    ],
    "openvino": [
        ("mlp onnx", "openvino(static=True)"),
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
