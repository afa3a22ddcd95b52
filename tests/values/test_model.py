"""A model folder is data from anywhere: what it holds is looked at before it is used."""

import json

import pytest

from trimtab.errors import CorruptFile
from trimtab.values.facts import Facts
from trimtab.values.model import MODEL_FILE, Cascade, Greedy, Model, Part, Scan, Signature, Single, TensorSpec


@pytest.fixture
def folder(tmp_path):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("h", "float32", ("batch", 3))),
        (TensorSpec("output", "float32", ("batch", 3)),),
        {"output": "h"},
    )
    part = Part("null", tmp_path / "main", signature, Facts("null", 5, 6, {"linear": 1}))
    Model({"main": part, "other": part}, frontend={"steps": [], "inputs": ["x"]}, lineage=("null:linear",)).save(
        tmp_path
    )
    return tmp_path


def change(folder, place, value):
    data = json.loads((folder / MODEL_FILE).read_text())
    inside = data
    *path, last = place
    for key in path:
        inside = inside[key]
    inside[last] = value
    (folder / MODEL_FILE).write_text(json.dumps(data))


@pytest.mark.parametrize(
    "program",
    [
        Single("other"),
        Scan("main", ("x",)),
        Cascade(("main", "other"), (0.5,)),
        Greedy(None, "main", 0, 1, 5, logits="output"),
    ],
)
def test_every_program_opens_again(folder, program):
    model = Model(Model.open(folder).parts, program)
    model.save(folder)
    assert Model.open(folder).program == program


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["program", "part"], "nope", "runs the part 'nope'; it has main, other"),
        (["program", "part"], 5, "'part' of a single cannot be 5"),
        (["program"], {"kind": "scan", "over": [1]}, "'over' of a scan"),
        (["program"], {"kind": "cascade", "stages": ["main"], "thresholds": [0.5]}, "one threshold"),
        (["program"], {"kind": "cascade", "stages": [], "thresholds": []}, "one threshold"),
        (["program"], {"kind": "cascade", "stages": ["main"], "thresholds": [], "output": "y"}, "no such output"),
        (["program"], {"kind": "greedy", "encoder": "e", "decoder": "main", "start": 0}, "missing"),
        (["program"], {"kind": "nope"}, "unknown program 'nope'"),
        (["program"], None, "NoneType"),
        (["frontend"], 5, "its frontend cannot be 5"),
        (["frontend", "steps"], None, "'steps' of its frontend"),
        (["frontend", "inputs"], [1], "'inputs' of its frontend"),
        (["frontend", "labels"], "cat", "'labels' of its frontend"),
        (["lineage"], [5], "'lineage' of a model"),
        (["notes"], 5, "not iterable"),
        (["parts"], [], "no attribute"),
        (["parts"], {}, "it has no parts"),
        (["parts", "main"], "text", "indices"),
        (["parts", "main", "format"], 5, "'format' of a part"),
        (["parts", "main", "path"], "../..", "leaves the model's folder"),
        (["parts", "main", "facts", "parameters"], "many", "'parameters' of a facts"),
        (["parts", "main", "facts", "layers"], {"conv": "x"}, "'layers' of a facts"),
        (["parts", "main", "signature", "inputs", 0, "shape"], "ab", "not a list"),
        (["parts", "main", "signature", "inputs", 0, "shape"], [1.5], "'shape' of a tensorspec"),
        (["parts", "main", "signature", "state"], {"output": "gone"}, "no output and input"),
    ],
)
def test_what_is_malformed_is_one_clear_line(folder, place, value, said):
    change(folder, place, value)
    with pytest.raises(CorruptFile, match=said):
        Model.open(folder)


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        ("int32", "int64", True),
        ("int64", "int32", True),
        ("int32", "uint8", True),
        ("float32", "float32", True),
        ("int8", "int64", False),
        ("float32", "int64", False),
        ("int64", "float32", False),
    ],
)
def test_only_whole_numbers_of_another_width_are_cast(wanted, given, fits):
    assert (TensorSpec("x", wanted, ("batch",)).mistyped(given) == "") == fits
