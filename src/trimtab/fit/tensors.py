"""Tensors on disk: safetensors with a digest, written so that a crash leaves the old file or the new one.

Never a pickle. A checkpoint and a model's weights are both written here; `read` tells a torn or altered file from a
good one, because safetensors itself checks the header and the length only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.errors import CorruptFile
from trimtab.values.store import sync

KEY = "trimtab"
"""The one key of the file's metadata."""


def write(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> None:
    """Write tensors and a JSON note to `path` in one atomic step; tensors must not share memory."""
    text = json.dumps(note or {}, sort_keys=True)
    # One key: safetensors writes several in random order, and equal content must give equal bytes.
    about = json.dumps({"note": text, "sha256": digest(tensors, text)})
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(whole, temporary, {KEY: about})
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the note that `write` wrote; raises CorruptFile on anything else."""
    tensors, metadata = read_plain(path)
    try:
        about = json.loads(metadata.get(KEY, "{}"))
        if about["sha256"] != digest(tensors, about["note"]):
            raise ValueError("digests differ")
        note: dict[str, Any] = json.loads(about["note"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(
            f"{path} does not match its own digest: it was altered or badly copied; make it again"
        ) from error
    return tensors, note


def read_plain(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return tensors and metadata of anybody's safetensors file; raises CorruptFile where it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFile(f"{path} is not a whole safetensors file ({error}); copy or convert it again") from error


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return a sha256 over names, types, shapes and bytes of the tensors, and the text."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
