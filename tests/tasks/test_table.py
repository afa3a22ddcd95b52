import csv

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow import parquet

from trimtab.errors import DataError, MissingExtra
from trimtab.run.frontend import prepare
from trimtab.tasks._columns import typed
from trimtab.tasks.table import Table
from trimtab.values.task import SPLITS


@pytest.fixture
def people(tmp_path):
    """A table of 80 people, four rows a user."""
    path = tmp_path / "people.csv"
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "age", "sex", "zip", "bought"])
        for row in range(80):
            age = random.integers(18, 90)
            writer.writerow(
                [f"u{row // 4}", age, "fm"[row % 2], "01234" if row % 3 else "94107", "yes" if age > 50 else "no"]
            )
    return path


def edited(path, row, column, value):
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[row][lines[0].index(column)] = value
    path.write_text("\n".join(map(",".join, lines)))
    return path


def test_numbers_are_standardised_on_train_and_words_become_inputs(people):
    task = Table(str(people), target="bought", drop=("user",), categorical=("zip",))
    assert task.labels == ("no", "yes")
    train = np.stack([example.inputs["features"] for example in task.split("train")])
    assert train.dtype == np.float32
    assert train.shape == (48, 1 + 2 + 2)
    assert train[:, 0].mean() == pytest.approx(0, abs=1e-5)
    assert train[:, 0].std() == pytest.approx(1, abs=1e-5)
    assert (train[:, 1:3].sum(axis=1) == 1).all()
    step = task.frontend()["steps"][0]
    assert [column["name"] for column in step["categorical"]] == ["sex", "zip"]


def test_a_raw_row_prepared_by_the_frontend_is_the_tasks_own_input(people):
    task = Table(str(people), target="bought", drop=("user",))
    example = task.split("test")[0]
    row = list(csv.DictReader(people.read_text().splitlines()))[int(example.id) - 1]
    raw = {name: [value] for name, value in row.items()}
    np.testing.assert_allclose(prepare(task.frontend(), raw)["features"][0], example.inputs["features"], rtol=1e-6)
    assert task.frontend()["inputs"] == ["features"]


def test_users_stay_whole_and_groups_are_slices(people):
    task = Table(str(people), target="bought", cluster="user", slices=("sex",))
    homes = [{example.cluster for example in task.split(name)} for name in SPLITS]
    assert sum(map(len, homes)) == 20
    assert {example.slices["sex"] for example in task.split("test")} == {"f", "m"}


def test_the_split_column_and_the_names_of_rows_are_the_users(people, tmp_path):
    lines = people.read_text().splitlines()
    names = ["split", *(SPLITS[min(row // 30, 2)] for row in range(80))]
    path = tmp_path / "named.csv"
    path.write_text(
        "\n".join(f"{line},{name},row{number}" for number, (line, name) in enumerate(zip(lines, names, strict=True)))
    )
    path.write_text(path.read_text().replace("split,row0", "split,key"))
    task = Table(str(path), target="bought", split_column="split", id="key", drop=("user",))
    assert {example.id for example in task.split("train")} == {f"row{number}" for number in range(1, 31)}
    assert len(task.split("test")) == 20


def test_a_missing_value_is_named_by_row_and_column_or_its_row_dropped(people):
    edited(people, 7, "age", "NA")
    edited(people, 9, "sex", "?")
    with pytest.raises(DataError, match=r"row 7: input 'age' is missing.*\(2\) with clean='drop'"):
        Table(str(people), target="bought").split("train")
    task = Table(str(people), target="bought", clean="drop")
    assert task.describe()["cleaning"] == {"read": 80, "missing": 2, "duplicates": 0}


def test_a_missing_target_is_found(people):
    with pytest.raises(DataError, match="row 5: the target is missing"):
        Table(str(edited(people, 5, "bought", "")), target="bought").split("train")


def test_a_number_to_predict_makes_a_regression(people):
    task = Table(str(people), target="age", kind="regression")
    batch = task.collate(task.split("train")[:3])
    assert task.objective == "mse"
    assert batch.targets.dtype == np.float32
    assert "class" not in task.split("train")[0].slices


def test_without_a_target_there_is_agreement_only(people):
    task = Table(str(people))
    assert [metric.name for metric in task.metrics] == ["agreement"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "bougt"}, "no column 'bougt'; did you mean bought"),
        ({"target": "bought", "slices": ("gender",)}, "no column 'gender'; known"),
        ({"target": "bought", "slices": ("zip",), "cluster": "usr"}, "did you mean user"),
        ({"target": "bought", "shares": (0.998, 0.001, 0.001)}, "the validation split is empty"),
    ],
)
def test_columns_that_are_absent_are_named(people, arguments, message):
    with pytest.raises(DataError, match=message):
        Table(str(people), **arguments).split("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"a,b\n", "has no rows"),
        (b"a,b\n1,2\n1\n", "row 2 has 1 values, the header has 2"),
        (b"a,a\n1,2\n", "two columns of one name"),
        (b"a,b\n\xff\xfe,2\n", "not a text table in UTF-8"),
        (b"a,y\n1,x\n2,x\n3,x\n", "one class only, 'x'"),
        (b"a,y\n1,z\n" + b"2,x\n" * 20, "class 'z' has none of its 1 rows in"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        Table(str(path), target="y" if b"y" in content else "").split("train")


def test_too_many_groups_are_refused(people):
    with people.open("a") as file:
        file.writelines(f"u{row},30,{row},94107,no\n" for row in range(60))
    with pytest.raises(DataError, match="slice 'sex' has 62 groups"):
        Table(str(people), target="bought", slices=("sex",)).split("train")


def test_tabs_and_byte_order_marks_are_read(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("﻿a\ty\n" + "".join(f"{row}\t{row % 2}\n" for row in range(20)), encoding="utf-8")
    assert len(Table(str(path), target="y").split("train")) == 12


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["1", "-2"], "i"), (["1", ""], "f"), (["1e3", "2.5"], "f"), (["1", "x"], "U"), (["9" * 30], "f")],
)
def test_columns_take_the_narrowest_type_that_fits(words, kind):
    assert typed(words).dtype.kind == kind


def written(path, **columns):
    parquet.write_table(arrow.table(columns), path)
    return str(path)


def test_parquet_reads_as_the_same_table_in_csv(people, tmp_path):
    rows = list(csv.DictReader(people.read_text().splitlines()))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["age"] = list(map(int, columns["age"]))
    path = written(tmp_path / "people.parquet", **columns)
    tasks = [Table(str(file), target="bought", categorical=("zip",)) for file in (people, path)]
    one, other = (task.collate(task.split("train")).inputs["features"] for task in tasks)
    np.testing.assert_array_equal(one, other)


def test_lists_in_parquet_become_sequences(tmp_path):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, 60)
    series = {name: [random.normal(5, 2, length).tolist() for length in lengths] for name in ("x", "y")}
    path = written(tmp_path / "series.parquet", **series, label=["a", "b"] * 30)
    task = Table(path, target="label")
    batch = task.collate(task.split("train")[:10])
    longest = batch.inputs["length"].max()
    assert batch.inputs["sequence"].shape == (10, longest, 2)
    assert batch.inputs["length"].tolist() == [lengths[int(name) - 1] for name in batch.ids]
    steps = np.concatenate([example.inputs["sequence"] for example in task.split("train")])
    np.testing.assert_allclose(steps.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(steps.std(axis=0), 1, atol=1e-4)
    padding = np.arange(longest) >= batch.inputs["length"][:, None]
    assert not batch.inputs["sequence"][padding].any()


def test_missing_values_and_other_types_in_parquet(tmp_path):
    columns = {"a": [1.0, None] * 20, "b": [True, False] * 20, "c": [[1.0], [float("nan")]] * 20, "y": ["p", "q"] * 20}
    with pytest.raises(DataError, match="row 2: input 'a' is missing"):
        Table(written(tmp_path / "a.parquet", **columns), target="y").split("train")
    del columns["a"]
    with pytest.raises(DataError, match="row 2: input 'c' is missing"):
        Table(written(tmp_path / "c.parquet", **columns), target="y").split("train")
    del columns["c"]
    task = Table(written(tmp_path / "b.parquet", **columns), target="y")
    assert task.frontend()["steps"][0]["categorical"][0]["values"] == ["False", "True"]


def test_lists_of_words_are_refused(tmp_path):
    path = written(tmp_path / "a.parquet", a=[["x"]] * 9, y=["p", "q", "r"] * 3)
    with pytest.raises(DataError, match="column 'a': lists must hold numbers"):
        Table(path, target="y").split("train")


def test_a_torn_parquet_file_says_so(tmp_path):
    path = tmp_path / "torn.parquet"
    path.write_bytes((written(tmp_path / "a.parquet", a=[1]) and (tmp_path / "a.parquet").read_bytes())[:60])
    with pytest.raises(DataError, match=r"torn\.parquet is not a Parquet file"):
        Table(str(path)).split("train")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "a.parquet", a=[1])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"trimtab\[data\]"):
        Table(path).split("train")
