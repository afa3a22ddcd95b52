"""Your own Keras model, saved as .keras, on arrays in an .npz file. Takes about a minute."""

import os
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # or yours: a .keras file does not say which backend wrote it

import keras
import numpy as np
from keras import layers

import trimtab


def data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images [count, 12, 12, 1] of a bright square, and the corner that it is in."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.6, (count, 12, 12, 1)).astype(np.float32)
    corners = random.integers(0, 4, count)
    for image, corner in zip(images, corners, strict=True):
        top, left = 6 * (corner // 2), 6 * (corner % 2)
        image[top : top + 6, left : left + 6] += 0.5
    return images, corners


def train(folder: Path, images: np.ndarray, corners: np.ndarray) -> Path:
    """Build, fit and save a model as you always do."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, corners, epochs=2, batch_size=64, verbose=0)
    model.save(folder / "corners.keras")
    return folder / "corners.keras"


def main(folder: Path) -> None:
    """Train, trim, and serve the bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    images, corners = data(2000, seed=1)
    path = train(folder, images[:1000], corners[:1000])
    split = {
        f"split_{name}": rows
        for name, rows in zip(("train", "validation", "test"), np.split(np.arange(2000), [1000, 1400]), strict=True)
    }
    np.savez(folder / "corners.npz", image=images, target=corners, **split)

    result = trimtab.trim(
        f"keras:{path}", folder / "corners.npz", "accuracy >= base - 0.03", within="1m", train=False, out=folder / "run"
    )
    print(result.document["sentence"])
    if result.bundle is None:
        sys.exit(3)
    with trimtab.load(result.bundle) as bundle:
        fresh, places = data(200, seed=2)
        answer = bundle.predict(fresh)["output"].argmax(axis=1)
    print(f"{(answer == places).mean():.0%} of new images are right")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
