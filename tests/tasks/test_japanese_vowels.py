import numpy as np
import pytest

import small_data
from trimtab.errors import CorruptFile
from trimtab.tasks.japanese_vowels import read_series


def test_series_keep_their_length_and_are_standardised_on_train(tmp_path):
    task = small_data.japanese_vowels(tmp_path)
    train = task.split("train")
    assert (len(train), len(task.split("validation")), len(task.split("test"))) == (72, 18, 45)
    assert all(one.inputs["sequence"].shape == (int(one.inputs["length"]), 12) for one in train)
    steps = np.concatenate([one.inputs["sequence"] for one in train])
    assert steps.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert steps.std(axis=0) == pytest.approx(1, abs=1e-4)
    assert task.split("test")[0].target == 0


def test_a_line_is_channels_and_then_the_class(tmp_path):
    (tmp_path / "x.ts").write_text("#note\n@classLabel true b a\n@data\n1,2,3:4,5,6:a\n7,8:9,10:b\n\n")
    series, targets = read_series(tmp_path / "x.ts")
    assert series[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert series[1].shape == (2, 2)
    assert targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@classLabel true a\n1:a",
        "@classLabel true a\n@data\n1,2:b\n",
        "@classLabel true a\n@data\n1,x:a\n",
        "@classLabel true a\n@data\n1,2:3:a\n",
        "@classLabel true a\n@data\n1:2:a\n1:a\n",
    ],
)
def test_a_damaged_file_is_said(tmp_path, text):
    (tmp_path / "x.ts").write_text(text)
    with pytest.raises(CorruptFile, match="is no file of series"):
        read_series(tmp_path / "x.ts")
