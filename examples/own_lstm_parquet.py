"""Your own LSTM on a Parquet file of sequences of different lengths. Takes about a minute.

The same on the command line:

    trimtab trim "torch:own_lstm_parquet.py:build | train(epochs=5, batch=32, lr=0.005)" \
        "gestures.parquet(target='gesture')" --promise "accuracy >= base - 0.05" --within 90s
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as arrow
import torch
from pyarrow import parquet
from torch import nn

import trimtab


class Reader(nn.Module):
    """Reads the columns of lists as one sequence; the state after the last step answers."""

    def __init__(self, columns: int, width: int, classes: int) -> None:
        super().__init__()
        self.core = nn.LSTM(columns, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] of `sequence` [batch, time, columns], padded behind `length` [batch] steps."""
        steps, _ = self.core(sequence)
        last = (length - 1).reshape(-1, 1, 1).expand(-1, 1, steps.shape[2])
        return self.head(steps.gather(1, last)[:, 0])


def build() -> nn.Module:
    """Return the net untrained: what `torch:FILE.py:build` calls."""
    return Reader(columns=2, width=48, classes=3)


def write_sequences(path: Path, rows: int = 1200) -> None:
    """Write gestures as columns of lists: left, right or round, 12 to 40 points each, with noise."""
    random = np.random.default_rng(0)
    columns: dict[str, list[object]] = {"x": [], "y": [], "gesture": []}
    for number in range(rows):
        kind = ("left", "right", "round")[number % 3]
        time = np.linspace(0, 1, int(random.integers(12, 41)))
        x, y = {"left": (-time, 0 * time), "right": (time, 0 * time), "round": (np.sin(6 * time), np.cos(6 * time))}[
            kind
        ]
        columns["x"].append(x + random.normal(0, 0.5, len(time)))
        columns["y"].append(y + random.normal(0, 0.5, len(time)))
        columns["gesture"].append(kind)
    parquet.write_table(arrow.table(columns), path)


def main(folder: Path) -> None:
    """Train, trim, and ask the bundle about two gestures."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "gestures.parquet"
    write_sequences(table)
    result = trimtab.trim(
        f"torch:{__file__}:build | train(epochs=5, batch=32, lr=0.005)",
        f"{table}(target='gesture')",
        "accuracy >= base - 0.05",
        within="90s",
        train=False,
        out=folder / "run",
    )
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    with trimtab.load(result.bundle) as bundle:
        time = np.linspace(0, 1, 30)
        print(*bundle.predict({"x": [time, -time[:20]], "y": [0 * time, 0 * time[:20]]})["label"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
