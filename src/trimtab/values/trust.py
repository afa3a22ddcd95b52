"""A folder of data may name code: which of it may run. Nothing runs because somebody else's folder says so.

A torch part is built by what comes with trimtab (the zoo, `hf:`, `keras:`), by code that the user named in this process
(`torch:net.py:build`, a module given to `trimtab.trim`), or else by code that only the folder names; that runs only
where the user says to trust it.
"""

from __future__ import annotations

import json
from pathlib import Path

from trimtab.errors import CorruptFile, UnsafeFile
from trimtab.values.model import Model

TORCH_FILE = "torch.json"
ZOO, HF, KERAS = "trimtab.sources.zoo", "trimtab.sources.hf", "trimtab.sources.keras"
BUILT_IN = frozenset({ZOO, HF, KERAS})
"""Modules whose BUILDERS make nets of their arguments alone, whoever wrote these."""
NAMED: set[str] = set()
"""References to code that the user named in this process."""


def code_named_by(model: Model) -> list[str]:
    """Return the references of a model's torch parts that are neither built in nor named by the user."""
    refs = [_reference(part.path / TORCH_FILE) for part in model.parts.values() if part.format == "torch"]
    return [ref for ref in refs if ref.rpartition(":")[0] not in BUILT_IN and ref not in NAMED]


def check_code(model: Model, folder: Path, trust: bool) -> None:
    """Raise UnsafeFile where the folder would run code that the user did not name and does not trust."""
    strange = [] if trust else code_named_by(model)
    if strange:
        raise UnsafeFile(
            f"{folder} would run the code {strange[0]}; if you know where the folder comes from, "
            "say so: --trust on the command line, load(path, trust=True) in Python"
        )


def check_links(folder: Path) -> None:
    """Raise UnsafeFile where the folder holds a link: it could bring in files from elsewhere."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise UnsafeFile(f"{path} is a link; a model folder holds plain files only: copy what it points at")


def _reference(path: Path) -> str:
    try:
        ref = json.loads(path.read_text())["build"]["ref"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path} is not a torch part's description: {error}") from error
    return str(ref)
