import csv

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow import parquet

from small_texts import SPECIAL, tokenizer_text, write_reviews
from trimtab.errors import DataError
from trimtab.run.frontend import prepare
from trimtab.tasks import _texts, open_task
from trimtab.tasks.newsgroups import Newsgroups
from trimtab.tasks.sentiment import Sentiment
from trimtab.tasks.text import Text
from trimtab.values.task import SPLITS, Batch


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_text())
    write_reviews(tmp_path / "reviews.csv")
    return tmp_path


def reviews(folder, **settings):
    named = {"target": "label", "text": "review", "tokenizer": str(folder), "max_length": 8} | settings
    return Text(str(folder / "reviews.csv"), **named)


def test_texts_are_as_long_as_they_are_and_a_batch_as_its_longest(folder):
    task = reviews(folder)
    assert task.labels == ("no", "yes")
    assert sum(len(task.split(name)) for name in SPLITS) == 120
    examples = [task.split("train")[number] for number in range(20)]
    lengths = [len(example.inputs["input_ids"]) for example in examples]
    assert len(set(lengths)) > 2
    assert max(lengths) <= 8
    assert all(example.inputs["attention_mask"].all() for example in examples)
    batch = task.collate(examples)
    assert batch.inputs["input_ids"].shape == (20, max(lengths))
    assert batch.inputs["attention_mask"].sum(axis=1).tolist() == lengths
    alone = task.collate(examples[:1])
    assert alone.inputs["input_ids"].shape == (1, lengths[0])


def test_padding_to_the_maximum_gives_one_shape(folder):
    task = reviews(folder, padding="max")
    assert {example.inputs["input_ids"].shape for example in task.split("train")} == {(8,)}


def test_the_frontend_does_to_a_plain_text_what_the_task_did(folder):
    task = reviews(folder)
    rows = list(csv.DictReader((folder / "reviews.csv").read_text().splitlines()))
    for example in task.split("test")[:5]:
        row = rows[int(example.id) - 1]
        out = prepare(task.frontend(), {"text": [row["review"]]})
        assert np.array_equal(out["input_ids"][0], example.inputs["input_ids"])
        assert task.labels[example.target] == row["label"]


def test_padding_is_the_tokenizers_own(folder):
    (folder / "tokenizer.json").write_text(tokenizer_text(special=(*SPECIAL[1:], "x", "[PAD]")[-4:]))
    task = reviews(folder)
    pad = task.frontend()["steps"][0]["pad"]
    assert pad == 3
    batch = task.collate([task.split("train")[number] for number in range(9)])
    assert set(batch.inputs["input_ids"][batch.inputs["attention_mask"] == 0].tolist()) == {pad}


def test_groups_clusters_and_given_splits(folder):
    task = reviews(folder, cluster="author", slices=("part",))
    homes = [{example.cluster for example in task.split(name)} for name in SPLITS]
    assert not homes[0] & homes[1]
    assert not homes[0] & homes[2]
    assert set(task.split("train")[0].slices) == {"class", "part"}
    given = reviews(folder, split_column="part")
    assert len(given.split("test")) == 40


def test_a_parquet_file_and_a_tsv_say_the_same_as_a_csv(folder):
    rows = list(csv.DictReader((folder / "reviews.csv").read_text().splitlines()))
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "reviews.parquet")
    write_reviews(folder / "reviews.tsv", delimiter="\t")
    hashes = set()
    for ending in ("csv", "tsv", "parquet"):
        ref = f"text:{folder}/reviews.{ending}(target='label', text='review', tokenizer='{folder}', max_length=8)"
        hashes.add(open_task(ref).fingerprint("train"))
    assert len(hashes) == 1


def test_the_only_column_left_is_the_text_and_numbers_are_a_regression(folder):
    with (folder / "stars.csv").open("w") as file:
        csv.writer(file).writerows([("said", "stars"), *((f"good film n{i}", i / 7) for i in range(60))])
    task = Text(str(folder / "stars.csv"), target="stars", tokenizer=str(folder))
    assert task.objective == "mse"
    with pytest.raises(DataError, match=r"say which column .* as text='review'"):
        Text(str(folder / "reviews.csv"), target="label", tokenizer=str(folder)).split("train")
    unlabelled = Text(str(folder / "stars.csv"), text="said", tokenizer=str(folder))
    assert unlabelled.objective == "none"


def test_it_says_how_long_texts_are_and_which_share_is_cut_off(folder):
    about = reviews(folder).describe()["texts"]
    rows = [row["review"] for row in csv.DictReader((folder / "reviews.csv").read_text().splitlines())]
    chosen = [rows[int(example.id) - 1] for example in reviews(folder).split("train")]
    lengths = np.array([len(row.split()) + 2 for row in chosen])
    assert about["counted"] == len(chosen)
    assert about["tokens"]["longest"] == lengths.max()
    assert about["tokens"]["median"] == np.median(lengths)
    assert about["cut_off"] == pytest.approx((lengths > 8).mean())
    assert 0 < about["cut_off"] < 1


def test_a_long_text_costs_no_more_than_itself_and_equal_texts_are_found(folder):
    with (folder / "long.csv").open("w") as file:
        rows = [(f"{'good' if i % 2 else 'bad'} n{i % 50}", i % 2) for i in range(100)] + [("dull " * 5_000, 0)]
        csv.writer(file).writerows([("said", "label"), *rows])
    task = Text(str(folder / "long.csv"), target="label", text="said", tokenizer=str(folder), max_length=8)
    found = task.describe()["duplicates"]
    assert found["train/test"] + found["train/validation"] + found["validation/test"] + found["within"] == 50
    unique = Text(str(folder / "long.csv"), target="label", text="said", tokenizer=str(folder), unique=True)
    assert sum(unique.describe()["sizes"].values()) == 51


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "short"}, "padding is 'short'; it takes 'longest' or 'max'"),
        ({"max_length": 0}, "max_length is a number of tokens from 1"),
        ({"max_length": 2}, "leaves no token of the text"),
        ({"text": "revue"}, "has no column 'revue'; did you mean review"),
        ({"cluster": "nobody"}, "has no column 'nobody'"),
    ],
)
def test_what_cannot_be_right_is_an_error(folder, settings, message):
    with pytest.raises(DataError, match=message):
        reviews(folder, **settings).frontend()


def test_a_blank_text_is_a_row_with_a_missing_value(folder):
    with (folder / "reviews.csv").open("a") as file:
        file.write("  ,yes,u0,train\n")
    with pytest.raises(DataError, match="row 121: input 'text' is missing"):
        reviews(folder).split("train")
    assert reviews(folder, clean="drop").describe()["cleaning"]["missing"] == 1


def test_a_folder_without_a_tokenizer_says_how_to_make_one(folder):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no tokenizer.json; write one, as with .*save_pretrained"):
        reviews(folder, tokenizer=str(folder / "empty")).frontend()
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"is no tokenizer.json that can be read"):
        reviews(folder).frontend()


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    class Absent:
        @staticmethod
        def from_pretrained(place):
            raise OSError("no route to host")

    monkeypatch.setattr("tokenizers.Tokenizer", Absent)
    with pytest.raises(DataError, match=r"no tokenizer 'some/model': name a tokenizer.json.*no route to host"):
        _texts.read_tokenizer("some/model")


@pytest.fixture
def carried(folder, monkeypatch):
    """Small stand-ins for the files that packages carry."""
    lines = [f"{i // 3}_{i % 3}\t{(i % 7 - 3) / 2}\tthe film is good n{i}" for i in range(90)]
    (folder / "ratings.txt").write_text("\r\n".join(lines))
    for split, size in (("train", 40), ("test", 20)):
        posts = [f"alt.{'ab'[i % 2]}\tthe book {split} {i}" for i in range(size)]
        (folder / f"20newsgroups-{split}.tab").write_text(
            "\n".join(["Category\tText", "d\tstring", "class\t", *posts, ""])
        )
    monkeypatch.setattr("trimtab.tasks.sentiment.fetch", lambda parcel: folder / "ratings.txt")
    monkeypatch.setattr(
        "trimtab.tasks.newsgroups.fetch_many", lambda parcel, names: [folder / name.split("/")[-1] for name in names]
    )
    return folder


def test_sentiment_takes_the_sign_and_leaves_out_what_is_neutral(carried):
    task = Sentiment(tokenizer=str(carried), domain="amazon")
    about = task.describe()
    assert about["ratings"] == {"read": 90, "neutral": 13, "band": 0.0}
    assert sum(about["sizes"].values()) == 77
    assert about["clusters"] == 30, "sentences of one review stay together"
    for example in task.split("train"):
        first, second = map(int, example.id.split("_"))
        assert task.labels[example.target] == ("positive" if (3 * first + second) % 7 > 3 else "negative")
    assert sum(Sentiment(tokenizer=str(carried), band=0.5).describe()["sizes"].values()) < 77
    for wrong in ({"domain": "films"}, {"band": -1.0}):
        with pytest.raises(DataError, match=r"it takes 'movie'|band is a rating"):
            Sentiment(**wrong)


def test_newsgroups_keep_their_test_split(carried):
    task = Newsgroups(tokenizer=str(carried))
    assert {name: len(task.split(name)) for name in SPLITS} == {"train": 33, "validation": 7, "test": 20}
    assert all(example.id.startswith("test-") for example in task.split("test"))
    assert task.labels == ("alt.a", "alt.b")
    assert isinstance(task.collate(task.split("test")[:3]), Batch)
    fewer = Newsgroups(tokenizer=str(carried), test=6)
    assert {name: len(fewer.split(name)) for name in SPLITS} == {"train": 33, "validation": 7, "test": 6}
    assert sorted(example.target for example in fewer.split("test")) == [0, 0, 0, 1, 1, 1]
    for wrong in (-1, 21):
        with pytest.raises(DataError, match=f"up to 20, or 0 for all of them; got {wrong}"):
            Newsgroups(tokenizer=str(carried), test=wrong).split("test")
