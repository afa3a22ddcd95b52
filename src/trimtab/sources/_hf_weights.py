"""Reads the weights of a transformers folder: safetensors, whole or in shards, or a file that holds tensors only."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from trimtab.errors import CorruptFile, DataError, UnsafeFile, one_line
from trimtab.sources import _hf_nets

PICKLE = "pytorch_model.bin"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", PICKLE)
"""Files that hold weights or say which do; the first that is there counts."""


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights; raises DataError where there are none, CorruptFile where one is missing."""
    first = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        raise DataError(f"{folder} has no weights; it takes one of {', '.join(WEIGHTS)}")
    if first.suffix != ".json":
        return [first]
    try:
        names = sorted({*json.loads(first.read_text())["weight_map"].values()})
        return [first, *(_plain_file(folder, name) for name in names)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{first} does not list files of weights: {error}") from error


def _plain_file(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise UnsafeFile(f"{folder} lists the weights {name!r}: a file beside the list is wanted")
    if not (folder / name).is_file():
        raise CorruptFile(f"{folder} lacks {name}; copy it again")
    return folder / name


def fill(module: Any, folder: Path, kept: bool) -> list[str]:
    """Put the folder's weights into the module, those of its head if `kept`; return the names that stay fresh.

    Raises:
        UnsafeFile: the weights are pickled objects.
        CorruptFile: weights of the body are missing, or the file is torn.
    """
    given = _tensors(folder / PICKLE) if weight_files(folder)[0].name == PICKLE else None
    built: Any = module.model
    own_head = isinstance(module, _hf_nets.Encoder)
    settings = _hf_nets.without_pooler(built.config.to_dict()) if own_head else {}
    try:
        with _quietly():
            loaded, info = type(built).from_pretrained(
                None if given else folder,
                config=built.config,
                state_dict=given,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **settings,
            )
    except Exception as error:  # the library raises whatever its readers do
        raise CorruptFile(f"{folder}: the weights cannot be read ({one_line(error)}); copy them again") from error
    body = f"{built.base_model_prefix}."
    head = {} if own_head else {name: value for name, value in built.state_dict().items() if not name.startswith(body)}
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])} - ({} if kept else head).keys()
    if absent:
        raise CorruptFile(f"{folder} lacks weights that the model has: {', '.join(sorted(absent)[:3])}; get it again")
    if not kept:
        loaded.load_state_dict(head, strict=False)
    module.model = loaded
    return ["head.weight", "head.bias"] if own_head else [] if kept else [f"model.{name}" for name in head]


def _tensors(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFile(
            f"{path} holds pickled objects that could run code, and was not opened; save the model where you trust it: "
            "model.save_pretrained(FOLDER) writes safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is no whole file of tensors ({error}); copy it again") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the library's bars and reports of weights off the terminal: what matters is in the notes."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
