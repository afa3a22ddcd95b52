"""A loaded model that answers: the contract between runtimes, the driver, workers and bundles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays: TypeAlias = "Mapping[str, NDArray[Any]]"


class Session(Protocol):
    """Runs one part at a time; inputs and outputs are arrays with a batch axis in front."""

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        """Return the part's outputs by name."""
        ...
