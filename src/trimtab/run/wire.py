"""Messages between a worker and its client: JSON and raw array bytes, so that nothing received can run code.

    message := length (4 bytes, little-endian) | header (JSON object of that length) | bytes of each array in turn

The header's `arrays` lists [name, dtype, shape]; only plain numbers travel, never objects.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<I")
HEADER_LIMIT = 1 << 24
"""Bytes; a longer header is not ours, as when a library printed into the stream."""
KINDS = "biufc"
"""numpy kinds that may travel: booleans, integers, floats and complex numbers."""

Message = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class Garbled(Exception):
    """The stream does not hold a message."""


def pieces(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Iterator[memoryview]:
    """Yield the bytes of a message; raises TypeError on an array of objects or text."""
    solid = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in solid.items():
        if array.dtype.kind not in KINDS:
            raise TypeError(f"array {name!r} has dtype {array.dtype}; a worker takes numbers only")
    listed = [[name, array.dtype.str, arrays[name].shape] for name, array in solid.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    yield memoryview(LENGTH.pack(len(text)) + text)
    for array in solid.values():
        if array.nbytes:
            yield array.reshape(-1).view(np.uint8).data


def receive(read: Callable[[memoryview], None]) -> Message:
    """Read one message by `read`, which fills the whole buffer that it gets; raises Garbled."""
    prefix = bytearray(LENGTH.size)
    read(memoryview(prefix))
    (length,) = LENGTH.unpack(prefix)
    if not 0 < length <= HEADER_LIMIT:
        raise Garbled(f"a message cannot begin with {bytes(prefix)!r}")
    text = bytearray(length)
    read(memoryview(text))
    try:
        header = json.loads(text)
        return header, {name: _array(dtype, shape, read) for name, dtype, shape in header.pop("arrays")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Garbled(f"a message has an unreadable header: {error}") from error


def _array(code: str, shape: list[int], read: Callable[[memoryview], None]) -> NDArray[Any]:
    dtype = np.dtype(code)
    if dtype.kind not in KINDS:
        raise Garbled(f"an array has dtype {code}; only numbers travel")
    flat: NDArray[Any] = np.empty(math.prod(shape), dtype)
    if flat.nbytes:
        read(flat.view(np.uint8).data)
    return flat.reshape(shape)
