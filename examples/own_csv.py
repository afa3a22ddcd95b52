"""Your own table, without code: a CSV, a target column, a promise. Takes about half a minute.

The same on the command line:

    trimtab trim "zoo:mlp | train(epochs=30)" "flowers.csv(target='kind')" \
        --promise "accuracy >= base - 0.05" --within 1m
"""

import csv
import random
import sys
import tempfile
from pathlib import Path

import trimtab


def write_table(path: Path, rows: int = 1500) -> None:
    """Write measurements of three kinds of flowers, drawn around three centres."""
    chance = random.Random(0)  # noqa: S311  (no secret)
    centres = {"setosa": (5.0, 3.4, 1.5, 0.2), "versicolor": (5.9, 2.8, 4.3, 1.3), "virginica": (6.6, 3.0, 5.6, 2.0)}
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sepal_length", "sepal_width", "petal_length", "petal_width", "kind"])
        for number in range(rows):
            kind = list(centres)[number % 3]
            table.writerow([*(f"{chance.gauss(middle, 0.25):.2f}" for middle in centres[kind]), kind])


def main(folder: Path) -> None:
    """Trim a small net on the table, then ask the bundle about two flowers in their own units."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "flowers.csv"
    write_table(table)
    result = trimtab.trim(
        "zoo:mlp | train(epochs=30)",
        f"{table}(target='kind')",
        "accuracy >= base - 0.05",
        within="1m",
        train=False,
        out=folder / "run",
    )
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    with trimtab.load(result.bundle) as bundle:
        flowers = {"sepal_length": [5.1, 6.7], "sepal_width": [3.5, 3.1], "petal_length": [1.4, 5.6]}
        print(*bundle.predict({**flowers, "petal_width": [0.2, 2.1]})["label"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
