import numpy as np
import pytest
from PIL import Image

from trimtab.errors import DataError, RecipeError
from trimtab.run.frontend import prepare
from trimtab.tasks.images import Images
from trimtab.values.notation import Step
from trimtab.values.task import SPLITS


def picture(path, size=(6, 4), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def photos(tmp_path):
    for number in range(10):
        picture(tmp_path / "photos" / "cat" / f"{number}.png", seed=number)
        picture(tmp_path / "photos" / "dog" / f"{number}.png", mode="L" if number % 2 else "RGBA", seed=100 + number)
    return tmp_path / "photos"


def test_folders_are_classes_and_channels_are_standardised_by_train(photos):
    task = Images(str(photos))
    assert task.labels == ("cat", "dog")
    train = task.collate(task.split("train")).inputs["image"]
    assert train.shape == (12, 3, 4, 6)
    assert train.dtype == np.float32
    np.testing.assert_allclose(train.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=(0, 2, 3)), 1, atol=1e-5)
    assert all(example.slices["class"] == example.id.split("/")[0] for example in task.split("test"))


def test_raw_pixels_prepared_by_the_frontend_are_the_tasks_own_input(photos):
    task = Images(str(photos))
    example = task.split("test")[0]
    raw = np.asarray(Image.open(photos / example.id).convert("RGB"))[None]
    np.testing.assert_array_equal(prepare(task.frontend(), {"image": raw})["image"][0], example.inputs["image"])
    with pytest.raises(DataError, match=r"shape \[4, 6, 3\], got \[5, 6, 3\]"):
        prepare(task.frontend(), {"image": np.zeros((1, 5, 6, 3))})


def test_grayscale_and_resize(photos):
    picture(photos / "cat" / "large.jpg", (30, 20))
    with pytest.raises(DataError, match=r"0\.png is 6x4, .*large\.jpg 30x20; bring them to one with resize="):
        Images(str(photos)).split("train")
    assert Images(str(photos), resize=8, grayscale=True).split("train")[0].inputs["image"].shape == (1, 8, 8)


def test_given_folders_are_the_splits(photos, tmp_path):
    root = tmp_path / "given"
    for number in range(8):
        for label in ("cat", "dog"):
            picture(root / "train" / label / f"{number}.png", seed=number + 10 * len(label) + (label == "dog"))
            picture(root / "test" / label / f"{number}.png", seed=number + 90 + (label == "dog"))
    task = Images(str(root), flip=True)
    assert [len(task.split(name)) for name in SPLITS] == [13, 3, 16]
    assert all(example.id.startswith("test/") for example in task.split("test"))
    assert task.describe()["augmentation"] == {"flip": True}
    assert task.describe()["duplicates"]["train/test"] + task.describe()["duplicates"]["validation/test"] == 0


def test_a_split_of_another_name_does_not_become_a_class(tmp_path):
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            picture(tmp_path / split / label / "0.png")
    with pytest.raises(DataError, match="train beside val: folders of splits are named train, validation, test"):
        Images(str(tmp_path)).split("train")


@pytest.mark.parametrize("size", [-3, 4097, 1_000_000])
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(RecipeError, match=f"resize takes 0 to 4096 pixels, got {size}"):
        Step.parse(f"images(path='photos', resize={size})").build(Images)


def test_an_image_that_cannot_be_resized_is_named(photos, monkeypatch):
    def fail(*_):
        raise ValueError("no")

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(DataError, match=r"cat/0\.png is no image that can be read: no"):
        Images(str(photos), resize=8).split("train")


@pytest.mark.parametrize("content", [b"", b"not an image", b"torn"])
def test_a_corrupt_image_is_named(photos, content):
    path = photos / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:70] if content == b"torn" else content)
    with pytest.raises(DataError, match=r"dog/3\.png is no image that can be read"):
        Images(str(photos)).split("train")


def test_a_bomb_is_refused(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(DataError, match="exceeds limit"):
        Images(str(photos)).split("train")


def test_a_folder_without_classes_says_what_is_wanted(tmp_path):
    with pytest.raises(DataError, match=r"one folder for each class, as .*cat/1\.png"):
        Images(str(tmp_path)).split("train")
    picture(tmp_path / "lone.png")
    with pytest.raises(DataError, match="one folder for each class"):
        Images(str(tmp_path)).split("train")


def test_one_class_is_too_few(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match="one class only, 'cat'"):
        Images(str(tmp_path)).split("train")
