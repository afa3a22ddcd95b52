"""A folder of images, one folder for each class: the user's own pictures without a line of code.

photos/cat/1.jpg  photos/dog/7.png                              split by seed and shares
photos/train/cat/1.jpg  photos/test/dog/7.png                   split as given; validation too, or taken off train
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trimtab.errors import DataError
from trimtab.run.frontend import Step, fit_scale
from trimtab.tasks._data import Array, Data
from trimtab.tasks._labelled import Labelled
from trimtab.values.task import SPLITS

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
LARGEST = 4096
"""Height and width to which images may be resized."""


@dataclass(frozen=True)
class Images(Labelled):
    """Tell the classes of a folder apart: `image` is float32 [C, H, W], each channel standardised by train's pixels."""

    path: str = ""
    """A folder with a folder of images for each class."""
    resize: int = 0
    """Height and width in pixels, up to 4096; 0 leaves images as they are, and then they must all be of one size."""
    grayscale: bool = False
    """Turn colours into one channel."""
    shift: float = 0.0
    """Training images move by up to so many pixels."""
    degrees: float = 0.0
    """Training images turn by up to so many degrees."""
    flip: bool = False
    """Training images are mirrored, left to right, half of the time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.resize <= LARGEST:
            raise ValueError(f"resize takes 0 to {LARGEST} pixels, got {self.resize}")

    @property
    def augmentation(self) -> Mapping[str, Any]:
        """Shift, turn and mirror, where asked for."""
        chosen = {"shift": self.shift, "degrees": self.degrees, "flip": self.flip}
        return {name: value for name, value in chosen.items() if value}

    def read(self) -> Data:
        """Read every image, in the order of their paths."""
        root = Path(self.path)
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        places = [path.relative_to(root).parts for path in files]
        tops = {parts[0] for parts in places}
        split = bool(tops) and tops <= {*SPLITS}
        if not split and "train" in tops and any(len(parts) > 2 for parts in places):
            strange = ", ".join(sorted(tops - {*SPLITS}))
            raise DataError(f"{root} holds train beside {strange}: folders of splits are named {', '.join(SPLITS)}")
        if not files or min(map(len, places)) < 2 + split:
            raise DataError(f"{root} must hold images in one folder for each class, as {root / 'cat' / '1.png'}")
        labels, targets = np.unique([parts[split] for parts in places], return_inverse=True)
        return Data(
            {"image": self._stack(files)},
            np.array([path.relative_to(root).as_posix() for path in files]),
            targets.astype(np.int64),
            tuple(map(str, labels)),
            given=np.array([parts[0] for parts in places]) if split else None,
            fit=_steps,
        )

    def _stack(self, files: list[Path]) -> Array:
        first = self._pixels(files[0])
        stack = np.empty((len(files), *first.shape), dtype=np.uint8)
        for number, file in enumerate(files):
            pixels = self._pixels(file)
            if pixels.shape != first.shape:
                sizes = f"{files[0]} is {first.shape[1]}x{first.shape[0]}, {file} {pixels.shape[1]}x{pixels.shape[0]}"
                raise DataError(f"images differ in size: {sizes}; bring them to one with resize=PIXELS")
            stack[number] = pixels
        return stack

    def _pixels(self, file: Path) -> Array:
        """Read one image as uint8 [H, W] or [H, W, 3]; anything that warns or fails is a corrupt image."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with Image.open(file) as opened:
                    image = opened.convert("L" if self.grayscale else "RGB")
                return np.asarray(image.resize((self.resize, self.resize)) if self.resize else image)
        except (OSError, SyntaxError, ValueError, MemoryError, Warning, Image.DecompressionBombError) as error:
            raise DataError(f"{file} is no image that can be read: {error}") from error


def _steps(train: Mapping[str, Array]) -> tuple[Step, ...]:
    images = train["image"]
    pixels = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    scale = fit_scale(pixels, axis=1)
    return (
        {"op": "shape", "input": "image", "shape": list(images.shape[1:])},
        {"op": "channels", "input": "image"},
        {"op": "scale", "input": "image", **scale},
    )
