import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_texts import WORDS, tokenizer_text
from trimtab.errors import CorruptFile, DataError, MissingExtra
from trimtab.run import tokens
from trimtab.run.frontend import masked, prepare, raw_inputs

TEXT = tokens.plain(tokenizer_text())
STEP = {
    "op": "tokenize",
    "input": "text",
    "tokenizer": TEXT,
    "max_length": 6,
    "pad": 0,
    "padding": "longest",
    "output": "input_ids",
    "mask": "attention_mask",
}
CLS, SEP, UNKNOWN = 2, 3, 1


def of(*words):
    return [CLS, *(4 + WORDS.index(word) if word in WORDS else UNKNOWN for word in words), SEP]


@given(st.lists(st.lists(st.sampled_from([*WORDS, "other"]), max_size=9), min_size=1, max_size=5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_texts_become_their_words_cut_off_and_padded(rows, whole):
    step = STEP | {"pad": 7, "padding": "max" if whole else "longest"}
    out = prepare({"steps": [step]}, {"text": [" ".join(row).upper() for row in rows]})
    expected = [of(*row[:4]) for row in rows]
    width = 6 if whole else max(map(len, expected))
    assert out["input_ids"].shape == out["attention_mask"].shape == (len(rows), width)
    assert out["input_ids"].dtype == out["attention_mask"].dtype == np.int64
    for ids, mask, row in zip(out["input_ids"], out["attention_mask"], expected, strict=True):
        assert ids.tolist() == row + [7] * (width - len(row))
        assert mask.tolist() == [1] * len(row) + [0] * (width - len(row))


def test_the_step_says_lengths_not_the_tokenizer_it_came_from():
    said = json.loads(TEXT)
    assert said["truncation"] is None
    assert said["padding"] is None
    assert tokens.lengths(["good", "a very very good film not a book"], tokenizer_text()).tolist() == [3, 10]
    assert (tokens.padding(TEXT), tokens.fewest(TEXT)) == (0, 2)
    assert tokens.padding(tokenizer_text(special=("<s>", "[UNK]"))) == 0
    assert tokens.padding(tokenizer_text(special=("<s>", "[UNK]", "<e>", "<f>", "<pad>"))) == 4


def test_a_frontend_of_texts_takes_texts():
    frontend = {"steps": [STEP], "inputs": ["input_ids", "attention_mask"]}
    assert raw_inputs(frontend) == ["text"]
    assert masked(frontend) == ("input_ids", "attention_mask")
    assert masked({"steps": [STEP | {"padding": "max"}]}) is None
    many = prepare(frontend, {"text": np.array(["good"] * 600, dtype=object)})
    assert many["input_ids"].tolist() == [of("good")] * 600


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", "texts come as a list"),
        (np.array([["a"]]), "texts come as a list"),
        (["good", 3], "row 1: '3' is a int, a text is needed"),
        (["good", None], "row 1: 'None' is a NoneType"),
    ],
)
def test_what_is_no_text_is_an_error(given, message):
    with pytest.raises(DataError, match=message):
        prepare({"steps": [STEP]}, {"text": given})


def test_a_text_without_tokens_is_an_error():
    bare = tokens.plain(tokenizer_text(special=("[PAD]", "[UNK]")))
    with pytest.raises(DataError, match="row 1: the text has no tokens"):
        prepare({"steps": [STEP | {"tokenizer": bare}]}, {"text": ["good", "  "]})


def test_a_torn_tokenizer_is_a_corrupt_file():
    for torn in ("", "{}", TEXT[:-20], '{"model": 1}'):
        with pytest.raises(CorruptFile, match="the tokenizer is no"):
            prepare({"steps": [STEP | {"tokenizer": torn}]}, {"text": ["good"]})
    for wrong in ({"padding": "short"}, {"max_length": 0}, {"tokenizer": 3}, {"pad": "x"}):
        with pytest.raises(CorruptFile, match="cannot have") as error:
            prepare({"steps": [STEP | wrong]}, {"text": ["good"]})
        assert len(str(error.value)) < 300


def test_without_the_library_the_pip_line_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'trimtab\[text\]'"):
        tokens.plain(TEXT)
