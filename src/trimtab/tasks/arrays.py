"""Arrays in an .npz file: inputs by name, and by these names what else is known of each row.

`target`; `id`; `cluster`; `slice_NAME`; `labels` (one name a class); `split_train`, `split_validation`, `split_test`
(row numbers). Every other array is an input. Without `target` the only metric is agreement with the base.
Numbers become float32, whole numbers int64, bytes (uint8) are pixels: float32 in 0..1, or with `scale=False` in 0..255.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trimtab.errors import DataError
from trimtab.run.frontend import Step
from trimtab.tasks._data import Array, Data, encoded
from trimtab.tasks._labelled import Labelled
from trimtab.values.task import SPLITS

OTHERS = ("target", "id", "cluster", "labels")
PREFIXES = ("slice_", "split_")


@dataclass(frozen=True)
class Arrays(Labelled):
    """A classification or regression on the arrays of an .npz file; bytes (uint8) are pixels, float32 in 0..1."""

    path: str = ""
    """An `.npz` file."""
    kind: str = ""
    """`classification` or `regression`; by default text and whole numbers are classes, other numbers are not."""
    scale: bool = True
    """Divide bytes by 255; `False` leaves them in 0..255, still float32, for a net that was trained so."""

    def read(self) -> Data:
        """Read the arrays; those with Python objects in them are refused."""
        arrays = loaded(Path(self.path))
        inputs = {name: array for name, array in arrays.items() if name not in OTHERS and name[:6] not in PREFIXES}
        if not inputs or any(array.ndim == 0 for array in arrays.values()):
            raise DataError(f"{self.path} must hold an input, and arrays with one row an example; has {shapes(arrays)}")
        for name, array in inputs.items():
            if array.dtype.kind not in "biuf":
                raise DataError(f"{self.path}: array {name!r} is {array.dtype}; give numbers")
        count = len(next(iter(inputs.values())))
        for name, array in arrays.items():
            if name != "labels" and name[:6] != "split_" and len(array) != count:
                raise DataError(f"{self.path}: {name!r} has {len(array)} rows, not {count}: {shapes(arrays)}")
        data = Data(
            inputs,
            arrays["id"].astype(str) if "id" in arrays else np.arange(count).astype(str),
            clusters=arrays["cluster"].astype(str) if "cluster" in arrays else None,
            slices={name[6:]: array.astype(str) for name, array in arrays.items() if name[:6] == "slice_"},
            given=given(arrays, count),
            fit=lambda train: tuple(_step(name, array, self.scale) for name, array in train.items()),
        )
        return data if "target" not in arrays else self._targeted(data, arrays)

    def _targeted(self, data: Data, arrays: dict[str, Array]) -> Data:
        targets, labels = encoded(arrays["target"], self.kind)
        if "labels" in arrays and labels:
            names, indices = tuple(map(str, arrays["labels"])), arrays["target"]
            if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= len(names):
                raise DataError(
                    f"{self.path}: with 'labels' the target must be row numbers of it, 0 to {len(names) - 1}"
                )
            targets, labels = indices.astype(np.int64), names
        return replace(data, targets=targets, labels=labels)


def loaded(path: Path) -> dict[str, Array]:
    """Read an .npz without unpickling anything; raises DataError that names the array at fault."""
    name = ""
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is not an .npz")
            arrays = {}
            for name in file.files:
                arrays[name] = file[name]
            return arrays
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        what = f"array {name!r} of {path}" if name else str(path)
        raise DataError(f"{what} cannot be read (Python objects are refused): {error}") from error


def given(arrays: dict[str, Array], count: int) -> Array | None:
    """Turn row numbers of the splits into a split name for each row; raises DataError where they overlap."""
    said = [name for name in arrays if name.startswith("split_")]
    known = [f"split_{name}" for name in SPLITS]
    if said and ("split_train" not in said or not {*said} <= {*known}):
        raise DataError(f"the splits are arrays of row numbers, {', '.join(known)}; found {', '.join(said)}")
    if not said:
        return None
    names = np.full(count, "", dtype="U10")
    for split in SPLITS:
        rows = arrays.get(f"split_{split}", np.array([], dtype=np.int64))
        if rows.dtype.kind not in "iu" or (len(rows) and (rows.min() < 0 or rows.max() >= count)):
            raise DataError(f"split_{split} must hold row numbers from 0 to {count - 1}")
        taken = rows[names[rows] != ""]
        if len(taken):
            raise DataError(f"row {taken[0]} is in the splits {names[taken[0]]} and {split}: splits may not overlap")
        names[rows] = split
    return names


def shapes(arrays: dict[str, Array]) -> str:
    """List arrays with their shapes, for errors."""
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def _step(name: str, array: Array, scale: bool) -> Step:
    pixels = array.dtype == np.uint8
    if pixels and scale:
        return {"op": "scale", "input": name, "by": 1 / 255}
    whole = array.dtype.kind in "iub" and not pixels
    return {"op": "cast", "input": name, "dtype": "int64" if whole else "float32"}
