"""Where is text in an image? Rendered lines of words on varied grounds, for detectors that give a map of probabilities.

A detector is judged by the boxes it finds against those of the base, so no labels are needed; where the text was
written is known all the same, and how much of it a model finds is told beside (`box_recall`). Boxes are read off the
map as differentiable binarization has it (Liao et al. 2020, arXiv 1911.08947, section 3.5), with upright boxes: pixels
above a threshold that touch, grown by area x 1.6 / perimeter, because such maps are trained on shrunken text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from trimtab.errors import DataError
from trimtab.maths.agreement import BoxAgreement, BoxF1, BoxRecall, box_rows
from trimtab.tasks._data import Array, Data
from trimtab.tasks._labelled import Labelled
from trimtab.values.task import Batch, Metric

Floats = NDArray[np.float64]
TEXT = (
    "open daily fresh bread and cakes mind the step platform nine exit only push pull sale ends sunday menu soup of the"
    " day please ring for service no parking at any time museum entrance tickets wet paint beware of the dog keep left"
)
"""Whose words are written."""
MOST = 16
"""Boxes of an image that are compared."""
THRESHOLD, LIKELY, GROWTH, LEAST = 0.3, 0.5, 1.6, 3
"""Of a pixel to belong to a box; of the mean of its pixels to be one; how far it grows; pixels of its shorter side."""
STEPS = (
    {"op": "channels", "input": "image"},
    {"op": "scale", "input": "image", "by": 1 / 255, "mean": 0.5, "std": 0.5},
)


@dataclass(frozen=True, kw_only=True)
class TextBoxes(Labelled):
    """Find lines of text: `image` is float32 [3, size, size] in -1..1, the answer a map [1, size, size] in 0..1."""

    images: int = 400
    size: int = 320
    """Pixels of a side; detectors want a multiple of 32."""
    shares: tuple[float, ...] = (0.15, 0.15, 0.7)

    objective = "none"
    """The boxes that were drawn are no map to learn."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Agreement of all boxes of an image, how many of its boxes agree, and how much of the text is found."""
        return (BoxAgreement(), BoxF1(), BoxRecall())

    def read(self) -> Data:
        """Draw the images; the boxes drawn are the targets, float[n, 4 * 16], -1 behind the last."""
        if self.images < 10 or self.size < 64:
            raise DataError(
                f"text_boxes takes 10 images or more of 64 pixels or more, got {self.images} of {self.size}"
            )
        drawn = [drawing(self.size, np.random.default_rng([self.seed, number])) for number in range(self.images)]
        steps = ({"op": "shape", "input": "image", "shape": [self.size, self.size, 3]}, *STEPS)
        targets = np.stack(
            [np.pad(boxes.ravel(), (0, 4 * MOST - boxes.size), constant_values=-1) for _, boxes in drawn]
        )
        ids = np.arange(self.images).astype(str)
        return Data({"image": np.stack([image for image, _ in drawn])}, ids, targets, fit=lambda train: steps)

    def score(self, outputs: Mapping[str, Array], batch: Batch) -> Floats:
        """Return the boxes of each image; raises DataError where the model gives no map of the image's size."""
        maps = outputs["output"] if "output" in outputs else next(iter(outputs.values()))
        wanted = (len(batch), 1, self.size, self.size)
        if maps.shape != wanted or batch.targets is None:
            raise DataError(f"the model does not fit the task {self.name}: it gives {maps.shape}, not {wanted}")
        truth = [boxes[boxes[:, 0] >= 0] for boxes in np.asarray(batch.targets, np.float64).reshape(len(maps), -1, 4)]
        return box_rows([boxes_of(one[0]) for one in maps], truth, MOST)


def boxes_of(chances: Array) -> Floats:
    """Return the boxes of a map[H, W] of probabilities: float[m, 4] of left, top, right, bottom, largest first."""
    chances = np.nan_to_num(np.asarray(chances, dtype=np.float64))
    labels, count = ndimage.label(chances > THRESHOLD, structure=np.ones((3, 3)))
    places = ndimage.find_objects(labels)
    means = ndimage.mean(chances, labels, np.arange(1, count + 1)) if count else []
    found = []
    for (rows, columns), mean in zip(places, means, strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if mean >= LIKELY and min(height, width) >= LEAST:
            room = height * width * GROWTH / (2 * (height + width))
            found.append((columns.start - room, rows.start - room, columns.stop + room, rows.stop + room))
    boxes = np.clip(np.array(found).reshape(-1, 4), 0, np.tile(chances.shape[::-1], 2))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(boxes[np.argsort(-areas, kind="stable")])


def drawing(size: int, chance: np.random.Generator) -> tuple[NDArray[np.uint8], Floats]:
    """Draw one image: uint8[size, size, 3], and the boxes of its lines of text, float[m, 4]."""
    ground = _ground(size, chance)
    image = Image.fromarray(ground)
    pen = ImageDraw.Draw(image)
    boxes: list[tuple[float, ...]] = []
    top = int(chance.integers(4, size // 6))
    while len(boxes) < MOST and top < size - 24:
        font = lettering(int(chance.integers(14, max(15, size // 9))))
        text = " ".join(chance.choice(TEXT.split(), chance.integers(1, 4)))
        left = int(chance.integers(4, size // 4))
        box = pen.textbbox((left, top), text, font=font)
        if box[2] < size - 2 and box[3] < size - 2:
            dark = ground[top : int(box[3]), left : int(box[2])].mean() > 127
            pen.text((left, top), text, font=font, fill=tuple(int(c) for c in _ink(bool(dark), chance)))
            boxes.append(box)
        top = int(box[3]) + int(chance.integers(10, size // 5))
    return np.asarray(image), np.array(boxes, dtype=np.float64).reshape(-1, 4)


@cache
def lettering(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow brings along, of a height in pixels."""
    return ImageFont.load_default(height)


def _ground(size: int, chance: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a plain colour, or one that fades into another, or stripes, under some noise."""
    first, second = chance.integers(0, 256, (2, 3)).astype(np.float32)
    across = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    kind = chance.integers(3)
    share = across if kind == 1 else 0.3 * (np.sin(across * chance.integers(10, 60)) > 0) if kind == 2 else 0 * across
    share = share if chance.random() < 0.5 else share.swapaxes(0, 1)
    noise = chance.uniform(0, 40) * (chance.random((size, size, 3), dtype=np.float32) - 0.5)
    return np.asarray(np.clip(first + share * (second - first) + noise, 0, 255), dtype=np.uint8)


def _ink(dark: bool, chance: np.random.Generator) -> NDArray[np.int64]:
    return chance.integers(0, 70, 3) if dark else chance.integers(186, 256, 3)
