"""What a runtime asks before it opens an ONNX file itself: does its external data stay where it may be?

The full check parses the file, which would weigh on the memory figures of the worker that loads it: 9 MB for the
library, and the weights once more. So the file is first searched for the word without which no entry is followed.
"""

from __future__ import annotations

from pathlib import Path

MODEL = "model.onnx"
KEY = b"location"
"""The key of the path in each external data entry (onnx.proto, `TensorProto.external_data`)."""
CHUNK = 1 << 20
"""Bytes read at a time."""


def guarded(folder: Path) -> Path:
    """Return the path of the ONNX file in a part's folder, once its external data is known to be safe.

    Raises:
        UnsafeFile, CorruptFile: as `trimtab.run.onnx_files.check_external`.
    """
    path = folder / MODEL
    if not path.is_file() or _mentions(path, KEY):
        from trimtab.run.onnx_files import check_external

        check_external(path)
    return path


def _mentions(path: Path, word: bytes) -> bool:
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            before += chunk
            if word in before:
                return True
            before = before[1 - len(word) :]
    return False
