"""Drawn text, and boxes read off maps of probabilities."""

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.tasks.text_boxes import GROWTH, TextBoxes, boxes_of

pytest.importorskip("PIL")


def ideal_map(truth, size):
    """Return the map of a detector that shrinks each box as such maps do, and is sure of it."""
    chances = np.zeros((1, size, size), np.float32)
    for left, top, right, bottom in truth:
        width, height = right - left, bottom - top
        room = 0.3 * min(width, height)
        chances[0, int(top + room) : int(bottom - room), int(left + room) : int(right - room)] = 0.9
    return chances


def test_the_text_is_where_the_boxes_say():
    task = TextBoxes(images=20, size=128)
    for example in task.split("test"):
        image = example.inputs["image"]
        assert image.shape == (3, 128, 128)
        assert np.abs(image).max() <= 1
        truth = np.array(example.target).reshape(-1, 4)
        for left, top, right, bottom in truth[truth[:, 0] >= 0].astype(int):
            inside = image[:, top:bottom, left:right]
            assert inside.std() > 0.1, "text stands out from its ground"


def test_an_ideal_map_finds_all_text_and_agrees_with_itself():
    task = TextBoxes(images=20, size=256)
    batch = task.collate(task.split("test"))
    truth = [np.array(one).reshape(-1, 4) for one in batch.targets]
    maps = np.stack([ideal_map(boxes[boxes[:, 0] >= 0], 256) for boxes in truth])
    rows, blank = (task.score({"output": array}, batch) for array in (maps, 0 * maps))
    once = np.ones((1, len(rows)))
    assert task.metric("box_recall").reduce(rows, once)[0] > 0.9
    assert task.metric("box_recall").reduce(blank, once)[0] == 0
    assert task.metric("agreement").reduce(np.hstack([rows, rows]), once)[0] == 1
    assert task.metric("agreement").reduce(np.hstack([blank, rows]), once)[0] < 0.2
    assert task.metric("box_f1").reduce(np.hstack([rows, rows]), once)[0] == 1


def test_boxes_grow_and_noise_is_left_out():
    chances = np.zeros((60, 80))
    chances[20:30, 10:50] = 0.8
    chances[50, 70:78] = 0.9
    chances[5:15, 60:70] = 0.4
    (box,) = boxes_of(chances)
    room = 400 * GROWTH / 100
    assert box.tolist() == pytest.approx([10 - room, 20 - room, 50 + room, 30 + room])
    assert boxes_of(np.full((60, 80), np.nan)).shape == (0, 4)
    assert boxes_of(np.full((60, 80), 1.0)).tolist() == [[0, 0, 80, 60]]


def test_images_are_the_same_for_a_seed_and_differ_between_seeds():
    first, again, other = (TextBoxes(images=10, size=64, seed=seed).fingerprint("train") for seed in (0, 0, 1))
    assert first == again != other


def test_maps_of_another_size_and_settings_that_cannot_be():
    task = TextBoxes(images=10, size=64)
    batch = task.collate(task.split("test")[:2])
    with pytest.raises(DataError, match=r"\(2, 1, 32, 32\), not \(2, 1, 64, 64\)"):
        task.score({"output": np.zeros((2, 1, 32, 32))}, batch)
    with pytest.raises(DataError, match="64 pixels or more"):
        TextBoxes(size=32).split("train")
