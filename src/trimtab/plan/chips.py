"""Opens chips: by name (`a100-sxm-80gb`, or as much of it as tells), or a file of one's own (`mine.toml`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from trimtab import machines
from trimtab.errors import UnknownName
from trimtab.values.chip import Chip

FOLDER = Path(machines.__file__).parent / "chips"


def names() -> tuple[str, ...]:
    """Return the names of all chips."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> Chip:
    """Return the chip of that name, or of that TOML file.

    Raises:
        UnknownName: no such chip; names the nearest.
        DataError: the file cannot be read.
    """
    if name.endswith(".toml"):
        return Chip.from_toml(Path(name))
    fits = [name] if name in names() else [known for known in names() if known.startswith(f"{name}-")]
    if len(fits) != 1:
        raise UnknownName("chip", name, fits or names())
    return _known(fits[0])


@cache
def _known(name: str) -> Chip:
    return Chip.from_toml(FOLDER / f"{name}.toml")
