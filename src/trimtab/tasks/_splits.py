"""Which example goes into which split: by a hash of the seed and the example's name, so that it never moves.

No random generator is used, so the same seed gives the same splits on every machine and library version. Classes are
spread evenly, clusters are never torn apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.values.task import SPLITS, Split

Array = NDArray[Any]
Parts = dict[Split, Array]


def keys(seed: int, names: Iterable[str]) -> Array:
    """Hash each name with the seed: uint64[n], the order of a shuffle that depends on nothing else."""
    hashes = (hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(value, "big") for value in hashes], dtype=np.uint64)


def cut(rows: Array, units: Array, strata: Array, seed: int, shares: Sequence[float]) -> list[Array]:
    """Cut rows into shuffled pieces of these shares.

    `units` names what stays together, `strata` the class to spread evenly, both for all the rows there are. Within its
    stratum the j-th of m units stands at (j + 1/2) / m; the units, so ordered, are dealt out from the front.
    """
    names, first, unit_of = np.unique(units[rows], return_index=True, return_inverse=True)
    order = keys(seed, names)
    stratum = strata[rows][first]
    place = np.empty(len(names))
    for value in np.unique(stratum):
        inside = np.flatnonzero(stratum == value)
        ranked = inside[np.argsort(order[inside], kind="stable")]
        place[ranked] = (np.arange(len(ranked)) + 0.5) / len(ranked)
    dealt = np.lexsort((order, place))
    sizes = np.bincount(unit_of, minlength=len(names))[dealt]
    bounds = np.rint(np.cumsum(shares) / sum(shares) * len(rows))[:-1]
    piece = np.empty(len(names), dtype=np.int64)
    piece[dealt] = np.searchsorted(bounds, np.cumsum(sizes) - sizes, side="right")
    row_order = np.argsort(keys(seed, [f"row:{row}" for row in rows]), kind="stable")
    return [rows[row_order][piece[unit_of][row_order] == number] for number in range(len(shares))]


def drawn(count: int, rows: Array, units: Array, strata: Array, seed: int) -> Array:
    """Return `count` of the rows of a given test split, as `cut` draws them; 0: all of them."""
    if not 0 <= count <= len(rows):
        raise DataError(f"test is a number of examples up to {len(rows)}, or 0 for all of them; got {count}")
    return cut(rows, units, strata, seed, (count, len(rows) - count))[0] if count else rows


def given_parts(given: Array) -> Parts:
    """Read a column of split names; a blank leaves the row out. Raises DataError on any other word."""
    strange = sorted({*map(str, given)} - {*SPLITS, ""})
    if strange:
        raise DataError(f"split {strange[0]!r} is unknown; a row belongs to one of: {', '.join(SPLITS)}")
    return {name: np.flatnonzero(given == name) for name in SPLITS if (given == name).any()}


def row_hashes(inputs: Mapping[str, Array]) -> list[bytes]:
    """Hash the inputs of each row, to find rows that are the same."""
    plain = [array for array in inputs.values() if array.dtype.kind != "O"]
    lists = [array for array in inputs.values() if array.dtype.kind == "O"]
    views = [np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8) for array in plain]
    columns: list[Iterable[Array]] = [views[0] if len(views) == 1 else np.hstack(views)] if views else []
    return [_hash(parts) for parts in zip(*columns, *lists, strict=True)]


def _hash(parts: Iterable[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in map(np.asarray, parts):
        digest.update(b"%d|" % part.nbytes)
        digest.update(part.tobytes())
    return digest.digest()


def duplicates(hashes: Sequence[bytes], parts: Parts, targets: Array | None) -> dict[str, Any]:
    """Count rows of a later split whose inputs stand in an earlier one, copies within a split, and contradictions."""
    found: dict[str, Any] = {}
    seen = {name: {hashes[row] for row in rows} for name, rows in parts.items()}
    for number, later in enumerate(SPLITS):
        for earlier in SPLITS[:number]:
            found[f"{earlier}/{later}"] = sum(hashes[row] in seen[earlier] for row in parts[later])
    found["within"] = sum(len(rows) - len(seen[name]) for name, rows in parts.items())
    if targets is not None:
        pairs = {(hashes[row], str(targets[row])) for rows in parts.values() for row in rows}
        found["contradicting"] = len(pairs) - len(set().union(*seen.values()))
    return found
