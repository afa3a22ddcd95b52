"""ONNX files as model parts: opened with suspicion, written with their signature and facts.

An ONNX file is data, but its external data entries name other files by path, offset and length: a loader that obeys
them reads whatever its user may read. Here each entry is checked first, and the bytes are read through the very
descriptor that was checked. A part of format "onnx" is a folder with `model.onnx` and, beyond protobuf's limit of
2 GB, `model.data`.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trimtab.errors import CorruptFile, Refused, UnsafeFile
from trimtab.run.onnx_facts import facts, graphs_of, tensors_of
from trimtab.values.model import Part, Signature, TensorSpec

__all__ = ["MODEL", "check_external", "facts", "load", "save", "signature"]

MODEL, DATA = "model.onnx", "model.data"
LIMIT = 2**31 - 2**20
"""Bytes beyond which weights go beside the file: protobuf stops at 2 GiB."""
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that the runtimes here know."""
EXTERNAL = onnx.TensorProto.EXTERNAL
TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class _Entry:
    """Where one tensor's bytes lie outside the file."""

    tensor: str
    location: str
    offset: int
    length: int


def load(part: Part | Path) -> onnx.ModelProto:
    """Return the model of a part, of its folder or of an ONNX file, weights included.

    Raises:
        CorruptFile: truncated, not ONNX, or with sizes that contradict each other.
        UnsafeFile: external data outside its folder, or reached by a link.
        Refused: an operator set that no runtime here knows.
    """
    path = _file(part.path if isinstance(part, Part) else part)
    model = parse(path)
    with_data = [t for t in tensors_of(model) if t.data_location == EXTERNAL]
    entries = [_entry(tensor, path) for tensor in with_data]
    _check_overlap(entries, path)
    for tensor, entry in zip(with_data, entries, strict=True):
        tensor.raw_data = _read(entry, path)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def save(model: onnx.ModelProto, folder: Path, sizes: Mapping[str, int] | None = None) -> Part:
    """Write the model into `folder` and return the part; a symbolic first axis is named "batch" in the file too.

    `sizes` gives symbolic sizes (such as "time") their value for one example when operations are counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name_batch(model)
    part = Part("onnx", folder, signature(model), facts(model, sizes))
    if sum(tensor.ByteSize() for tensor in tensors_of(model)) < LIMIT:
        (folder / MODEL).write_bytes(model.SerializeToString())
        return part
    onnx.save_model(model, folder / MODEL, save_as_external_data=True, location=DATA, size_threshold=1024)
    onnx.load_external_data_for_model(model, str(folder))
    return part


def check_external(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the external data of the ONNX file at `path`, each checked.

    Raises:
        UnsafeFile: a path that leaves the folder, a symlink, a hard link, a file with holes, two tensors on one place.
        CorruptFile: a missing file, or an offset, length or size that does not fit.
    """
    path = _file(path)
    entries = [_entry(t, path) for t in tensors_of(parse(path)) if t.data_location == EXTERNAL]
    _check_overlap(entries, path)
    for entry in entries:
        os.close(_open(entry, path))
    return tuple(path.parent / location for location in sorted({entry.location for entry in entries}))


def parse(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its external data; raises CorruptFile or Refused."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"cannot read the ONNX file {path}: {error.strerror}") from error
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise CorruptFile(f"{path} {_likeness(data)}") from error
    if not (model.ir_version and model.opset_import and model.graph.node and model.graph.output):
        raise CorruptFile(f"{path} {_likeness(data)}")
    _check_domains(model, path)
    for tensor in tensors_of(model):
        _check_inline(tensor, path)
    return model


def signature(model: onnx.ModelProto) -> Signature:
    """Return inputs and outputs; a size without a name is called after its tensor and axis."""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in given)
    return Signature(inputs, tuple(_spec(value) for value in model.graph.output))


def name_batch(model: onnx.ModelProto) -> None:
    """Call the symbolic first axis of inputs and outputs "batch", in place and wherever its name appears."""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    first = [
        dim for value in [*inputs, *model.graph.output] for dim in _dims(value)[:1] if not dim.HasField("dim_value")
    ]
    old = {dim.dim_param for value in inputs for dim in _dims(value)[:1]} - {""}
    for dim in first:
        dim.dim_param = "batch"
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in _dims(value):
            if dim.dim_param in old:
                dim.dim_param = "batch"


def _file(path: Path) -> Path:
    return path / MODEL if path.is_dir() else path


def _likeness(data: bytes) -> str:
    if data[:2] == b"PK" or data[:1] == b"\x80":
        return "is not an ONNX file but looks like a pickle, which is never opened; export the model to ONNX"
    return f"is not a complete ONNX file ({len(data)} bytes); export or copy it again"


def _check_domains(model: onnx.ModelProto, path: Path) -> None:
    own = {function.domain for function in model.functions}
    nodes = (node for graph in graphs_of(model) for node in graph.node)
    strange = sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in DOMAINS | own})
    if strange:
        raise Refused(
            f"{path.name} uses custom operators that no runtime here has: {', '.join(strange[:5])}; export it with "
            "operators of ONNX in their place, or cut the graph in front of them (onnx.utils.extract_model) and trim "
            "that part on its own"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise Refused(f"{path.name} has opset {opset.version}; the installed onnx reads 1 to {newest}")


def _bytes_declared(tensor: onnx.TensorProto, path: Path) -> int:
    bits: int = _bits(tensor, path)
    if any(size < 0 for size in tensor.dims):
        raise CorruptFile(f"tensor {tensor.name!r} of {path.name} has the shape {tuple(tensor.dims)}")
    return int(-(-math.prod(tensor.dims) * bits // 8))


def _bits(tensor: onnx.TensorProto, path: Path) -> int:
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise CorruptFile(f"tensor {tensor.name!r} of {path.name} has the unknown type {tensor.data_type}") from error
    packed: dict[str, int] = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
    return int(packed.get(kind.name, kind.itemsize * 8))


def _check_inline(tensor: onnx.TensorProto, path: Path) -> None:
    """A tensor that claims more than it brings would make its reader allocate the claim."""
    if tensor.data_location == EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return
    declared, brought = _bytes_declared(tensor, path), len(tensor.raw_data)
    typed = sum(len(getattr(tensor, kind)) for kind in TYPED)
    if typed:
        declared, brought = _numbers_declared(tensor, path), typed
    if brought != declared:
        unit = "numbers" if typed else "bytes"
        raise CorruptFile(f"tensor {tensor.name!r} of {path.name} declares {declared} {unit} and brings {brought}")


def _numbers_declared(tensor: onnx.TensorProto, path: Path) -> int:
    """Typed fields hold one number an element, two for complex ones, and whole bytes of smaller ones."""
    twice = tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
    small = _bits(tensor, path) < 8
    return _bytes_declared(tensor, path) if small else math.prod(tensor.dims) * (2 if twice else 1)


def _entry(tensor: onnx.TensorProto, path: Path) -> _Entry:
    keys = [pair.key for pair in tensor.external_data]
    if len(keys) != len(set(keys)):
        raise UnsafeFile(f"tensor {tensor.name!r} of {path.name} names its external data twice")
    values = {pair.key: pair.value for pair in tensor.external_data}
    declared = _bytes_declared(tensor, path)
    offset, length = (
        _whole(values.get(key, str(other)), tensor, path) for key, other in (("offset", 0), ("length", declared))
    )
    if length != declared:
        raise CorruptFile(f"tensor {tensor.name!r} of {path.name} declares {declared} bytes and points at {length}")
    return _Entry(tensor.name, _inside(values.get("location", ""), tensor, path), offset, length)


def _whole(text: str, tensor: onnx.TensorProto, path: Path) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CorruptFile(f"tensor {tensor.name!r} of {path.name} has the external offset or length {text[:40]!r}")
    return int(text)


def _inside(location: str, tensor: onnx.TensorProto, path: Path) -> str:
    pieces = location.split("/")
    if not location or {"", ".", ".."} & set(pieces) or any(mark in location for mark in "\\:\0"):
        raise UnsafeFile(
            f"tensor {tensor.name!r} of {path.name} wants external data from {location[:80]!r}; "
            "only a plain path inside the file's own folder is read"
        )
    return location


def _open(entry: _Entry, path: Path) -> int:
    """Return a descriptor of the entry's file, walked to without following links, and checked."""
    *folders, name = entry.location.split("/")
    where = f"external data {entry.location!r} of {path.name}"
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            here = _step(here, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        here = _step(here, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        _check_data(os.fstat(here), here, entry, where)
    except OSError as error:
        os.close(here)
        kind = CorruptFile if isinstance(error, FileNotFoundError) else UnsafeFile
        raise kind(f"{where} cannot be read as a plain file in its folder: {error.strerror}") from error
    except Exception:
        os.close(here)
        raise
    return here


def _step(folder: int, name: str, flags: int) -> int:
    descriptor = os.open(name, flags, dir_fd=folder)
    os.close(folder)
    return descriptor


def _check_data(status: os.stat_result, descriptor: int, entry: _Entry, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFile(f"{where} is not a regular file")
    if status.st_nlink > 1:
        raise UnsafeFile(f"{where} is a hard link, so that it may belong to something else; copy the file")
    if entry.offset + entry.length > status.st_size:
        raise CorruptFile(
            f"{where} has {status.st_size} bytes; tensor {entry.tensor!r} wants {entry.offset} to "
            f"{entry.offset + entry.length}"
        )
    if status.st_size and os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size:
        raise UnsafeFile(f"{where} has holes: it claims more than it holds; copy it with cp --sparse=never")


def _check_overlap(entries: list[_Entry], path: Path) -> None:
    """Many tensors on one place make a small file fill any memory."""
    end: dict[str, int] = {}
    for entry in sorted(entries, key=lambda entry: (entry.location, entry.offset)):
        if entry.length and entry.offset < end.get(entry.location, 0):
            raise UnsafeFile(f"tensor {entry.tensor!r} of {path.name} shares external bytes with another tensor")
        end[entry.location] = max(end.get(entry.location, 0), entry.offset + entry.length)


def _read(entry: _Entry, path: Path) -> bytes:
    with os.fdopen(_open(entry, path), "rb") as file:
        file.seek(entry.offset)
        return file.read(entry.length)


def _dims(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    if not kind.elem_type:
        raise Refused(f"{value.name!r} is not a tensor, and only tensors can go in and out")
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(_shape(value)))


def _shape(value: onnx.ValueInfoProto) -> Iterator[int | str]:
    for axis, dim in enumerate(_dims(value)):
        unnamed = "batch" if axis == 0 else f"{value.name}_{axis}"
        yield dim.dim_value if dim.HasField("dim_value") else dim.dim_param or unnamed
