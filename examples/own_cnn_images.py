"""Your own small CNN on a folder of images, one folder for each class. Takes about a minute.

The same on the command line:

    trimtab trim "torch:own_cnn_images.py:build | train(epochs=6, batch=32, lr=0.003)" \
        "shapes/(grayscale=True)" --promise "accuracy >= base - 0.05" --within 1m --no-train
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

import trimtab

SHAPES = ("circle", "square", "triangle")
SIZE = 24
"""Height and width of an image in pixels."""


def build(width: int = 32) -> nn.Module:
    """Return the net untrained: what `torch:FILE.py:build` calls; it takes `image` [batch, 1, height, width]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(9 * 2 * width, len(SHAPES)),
    )


def draw(shape: str, random: np.random.Generator) -> np.ndarray:
    """Return a noisy picture [height, width] of a shape somewhere, as uint8."""
    image = Image.new("L", (SIZE, SIZE), 40)
    radius = int(random.integers(5, 9))
    x, y = map(int, random.integers(radius, SIZE - radius, 2))
    left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=160)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=160)
    else:
        pen.polygon([(x, top), (left, bottom), (right, bottom)], fill=160)
    noisy = np.asarray(image) + random.normal(0, 12, (SIZE, SIZE))
    return noisy.clip(0, 255).astype(np.uint8)


def write_images(folder: Path, count: int = 200) -> None:
    """Write so many images of each shape, as folder/circle/0.png."""
    random = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw(shape, random)).save(folder / shape / f"{number}.png")


def main(folder: Path) -> None:
    """Train, trim, and ask the bundle about three new images."""
    images = folder / "shapes"
    write_images(images)
    result = trimtab.trim(
        f"torch:{__file__}:build | train(epochs=6, batch=32, lr=0.003)",
        f"{images}/(grayscale=True)",
        "accuracy >= base - 0.05",
        within="1m",
        train=False,
        out=folder / "run",
    )
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    with trimtab.load(result.bundle) as bundle:
        random = np.random.default_rng(1)
        print(*bundle.predict(np.stack([draw(shape, random) for shape in SHAPES]))["label"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
