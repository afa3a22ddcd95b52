"""OpenVINO's own files as model parts: a folder with `model.xml`, the graph, and `model.bin`, the weights.

The graph is parsed by OpenVINO alone, never here. It takes the weights from the one file beside it, whatever the graph
says, so that it is enough to see that both are plain files of that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.errors import CorruptFile, UnsafeFile

MODEL, WEIGHTS = "model.xml", "model.bin"


def model(folder: Path) -> Path:
    """Return the path of the graph in a part's folder, once both files are known to be plain ones.

    Raises:
        CorruptFile: one of them is missing.
        UnsafeFile: one is a link, and might lead out of the folder.
    """
    for path in (folder / MODEL, folder / WEIGHTS):
        check(path)
    return folder / MODEL


def name_tensors(network: Any) -> Any:
    """Give inputs and outputs without a name one, in place: models converted from torch have none at their end."""
    for side, sort in ((network.inputs, "input"), (network.outputs, "output")):
        for number, tensor in enumerate(side):
            if not tensor.get_names():
                tensor.get_tensor().set_names({f"{sort}_{number}" if len(side) > 1 else sort})
    return network


def check(path: Path) -> None:
    """Raise CorruptFile or UnsafeFile where this is no plain file."""
    if path.is_symlink():
        raise UnsafeFile(f"{path} is a link; an OpenVINO model is two plain files beside each other")
    if not path.is_file():
        raise CorruptFile(f"{path} is missing; an OpenVINO model is a graph (.xml) with its weights (.bin) beside it")
