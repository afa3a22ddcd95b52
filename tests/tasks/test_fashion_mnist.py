import numpy as np
import pytest

import small_data
from trimtab.errors import CorruptFile, DataError
from trimtab.tasks.fashion_mnist import FashionMnist, read_idx


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return small_data.fashion_mnist(tmp_path_factory.mktemp("fashion"))


def test_train_is_limited_and_balanced_and_the_test_split_is_the_datas_own(task):
    assert {name: len(task.split(name)) for name in ("train", "validation", "test")} == {
        "train": 100,
        "validation": 50,
        "test": 40,
    }
    assert np.bincount([example.target for example in task.split("train")]).tolist() == [10] * 10
    assert [example.id for example in task.split("test")][:2] == ["test-0", "test-1"]
    assert not {one.id for one in task.split("train")} & {one.id for one in task.split("validation")}


def test_images_are_enlarged_coloured_and_centred(task):
    image = task.split("test")[0].inputs["image"]
    assert (image.shape, image.dtype) == ((3, 32, 32), np.float32)
    assert np.array_equal(image[0], image[2])
    assert image.min() >= -127 / 128
    assert image.max() <= 1


def test_training_images_are_mirrored(task):
    batch = task.collate(task.split("train")[:16])
    changed = task.augment(batch, 0).inputs["image"]
    mirrored = [np.allclose(a[..., ::-1], b, atol=1e-5) for a, b in zip(batch.inputs["image"], changed, strict=True)]
    same = [np.allclose(a, b, atol=1e-5) for a, b in zip(batch.inputs["image"], changed, strict=True)]
    assert any(mirrored)
    assert all(a != b for a, b in zip(mirrored, same, strict=True))


def test_more_images_than_there_are(tmp_path):
    with pytest.raises(DataError, match="at most 200 images together"):
        small_data.fashion_mnist(tmp_path, limit=180)
    with pytest.raises(DataError, match="size is from 8"):
        FashionMnist(size=4)


def test_some_of_the_test_images(tmp_path):
    task = small_data.fashion_mnist(tmp_path, test=20)
    assert np.bincount([example.target for example in task.split("test")]).tolist() == [2] * 10
    with pytest.raises(DataError, match="up to 40, or 0 for all"):
        small_data.fashion_mnist(tmp_path, test=41)


DAMAGED = {"empty": b"", "not gzip": b"not gzip", "cut": small_data.gzip.compress(b"\0\0\x08\x03\0\0\0\x05abc")}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_said(tmp_path, content):
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"images.gz cannot be read, delete it"):
        read_idx(tmp_path / "images.gz")
