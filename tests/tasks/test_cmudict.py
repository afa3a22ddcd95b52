import numpy as np
import pytest

import small_data
from trimtab.errors import CorruptFile, DataError
from trimtab.run.frontend import prepare
from trimtab.tasks.cmudict import LETTERS, Cmudict, phonemes


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return small_data.cmudict(tmp_path_factory.mktemp("cmudict"))


def everything(task):
    return {example.id: example for name in ("train", "validation", "test") for example in task.split(name)}


def test_words_become_letters_and_sounds_that_end_with_a_stop(task):
    word = everything(task)["zebra"]
    assert [LETTERS[place] for place in word.inputs["letters"]] == [*"zebra", "</s>"]
    assert (int(word.inputs["length"]), word.inputs["letters"].dtype) == (6, np.int64)
    assert [phonemes()[place] for place in word.target] == ["Z", "IY1", "B", "R", "AH0", "</s>"]


def test_words_with_other_signs_are_left_out_and_pronunciations_stay_together(task):
    words = everything(task)
    assert len(words) == 34
    assert "o'clock" not in words
    assert [phonemes()[place] for place in words["data"].target][:2] == ["D", "EY1"]


def test_any_pronunciation_counts_as_right(task):
    examples = [everything(task)[word] for word in ("data", "data", "either")]
    batch = task.collate(examples)
    said = [["D", "AE1", "T", "AH0"], ["D", "AE1", "T"], ["AY1", "DH", "ER0"]]
    tokens = np.full((3, 6), 3)
    for row, sounds in zip(tokens, said, strict=True):
        row[: len(sounds)] = [phonemes().index(sound) for sound in sounds]
    rows = task.score({"tokens": tokens, "lengths": np.array([5, 4, 4])}, batch)
    values = {metric.name: metric.reduce(rows, np.ones((1, 3)))[0] for metric in task.metrics[:2]}
    assert values == pytest.approx({"word_error": 1 / 3, "phoneme_error": 1 / 11})


def test_letters_are_padded_with_zeros_and_targets_with_minus_one(task):
    batch = task.collate([everything(task)[word] for word in ("arm", "abacus")])
    assert batch.inputs["letters"][0].tolist()[4:] == [0, 0, 0]
    assert batch.inputs["length"].tolist() == [4, 7]
    assert batch.targets[0].tolist()[4:] == [-1, -1, -1]
    assert batch.targets.dtype == np.int64


def test_a_bundle_takes_words(task):
    ready = prepare(task.frontend(), {"word": ["zebra", "café"]})
    assert ready["letters"].tolist() == [[28, 7, 4, 20, 3, 2], [5, 3, 8, 1, 2, 0]]
    assert ready["length"].tolist() == [6, 5]


def test_it_says_that_the_pretrained_model_may_have_seen_the_words(task):
    assert "probably trained on this dictionary" in task.describe()["warning"]


def test_more_words_than_there_are(tmp_path):
    with pytest.raises(DataError, match=r"there are 34 words; cmudict\(.*test=30.*\) leaves none to train on"):
        small_data.cmudict(tmp_path, test=30)
    with pytest.raises(DataError, match="validation and test from 1 word"):
        Cmudict(test=0)


def test_a_model_that_gives_no_tokens(task):
    with pytest.raises(DataError, match="takes a model that gives tokens and lengths, got output"):
        task.score({"output": np.zeros((1, 3))}, task.collate(task.split("test")[:1]))


def test_a_damaged_dictionary_is_said(tmp_path, monkeypatch):
    (tmp_path / "bad").write_text("word QQ9\n")
    monkeypatch.setattr("trimtab.tasks.cmudict.fetch", lambda parcel: tmp_path / "bad")
    with pytest.raises(CorruptFile, match="cannot be read, delete it and it comes anew"):
        Cmudict().split("test")
