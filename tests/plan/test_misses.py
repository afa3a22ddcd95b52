"""Measured runs beside their plans: what was off is told, and what was put in is found again."""

import json

import pytest

from trimtab.errors import DataError, UsageError
from trimtab.plan import chips, misses, trainings, verbs
from trimtab.plan.misses import explained, misses_of

WORDS = {"model": "gpt:22b", "on": ["a100-sxm-80gb"], "stack": "megatron-2021", "recompute": "full"}
LAYOUTS = ({"tp": 8, "pp": 1}, {"tp": 4, "pp": 4}, {"tp": 2, "pp": 8}, {"tp": 1, "pp": 16})


def order_of(layout):
    return trainings.Order(
        verbs.models.named("gpt:22b"), 1.0, batch=64, program="megatron-2021", fixed={**layout, "recompute": "full"}
    )


def runs_with(term, factor):
    """Runs that took so many times as long in one term."""
    chip, found = chips.load("a100-sxm-80gb"), []
    for layout in LAYOUTS:
        plan = trainings.best(order_of(layout), chip, 16)
        off = (factor - 1) * plan.job.parts.get(term, 0.0)
        found += misses_of(order_of(layout), chip, 16, {"step_s": plan.job.seconds + off})
    return found


@pytest.mark.parametrize(("term", "factor"), [("products", 1.3), ("tensor-parallel talk", 2.0), ("pipeline bubble", 3)])
def test_the_term_that_was_off_is_found(term, factor):
    first = explained(runs_with(term, factor))[0]
    assert (first["of"], first["term"]) == ("time", term)
    assert first["factor"] == pytest.approx(factor, rel=0.01)
    assert first["left"] < 0.01 < first["before"]


def test_of_one_run_the_term_that_changes_least_comes_first():
    terms = explained(runs_with("products", 1.3)[:1])
    able = [one for one in terms if one["left"] < 0.001]
    assert len(able) > 1
    assert terms[0]["term"] == "products"


def test_rates_and_memory_are_compared_too(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("count,tp,pp,micro_batch,batch,tokens_per_s,memory_gib\n16,8,1,1,64,30000,40\n16,4,4,1,64,28000,\n")
    found = verbs.missed(WORDS, path, explain=True)
    assert [one["quantity"] for one in found["runs"]] == ["tokens_per_s", "memory_gib", "tokens_per_s"]
    assert {one["of"] for one in found["terms"]} == {"time", "memory"}
    assert all(one["low"] < one["predicted"] < one["high"] for one in found["runs"])
    json.dumps(found, allow_nan=False)


def test_a_tab_is_read_as_well(tmp_path):
    path = tmp_path / "tab.jsonl"
    path.write_text(json.dumps({"kind": "measured", "count": 16, "tp": 8, "batch": 64, "step_s": 9.0}) + "\n")
    assert misses.read_runs(path) == [{"kind": "measured", "count": 16, "tp": 8, "batch": 64, "step_s": 9.0}]
    assert len(verbs.missed(WORDS, path)["runs"]) == 1


def test_other_records_of_a_tab_are_passed_by_and_lines_are_counted_from_its_first(tmp_path):
    path = tmp_path / "tab.jsonl"
    records = [{"kind": "planned", "chip": "any"}, {"kind": "measured", "count": 16, "tp": 8, "batch": 64, "step_s": 9}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(verbs.missed(WORDS, path)["runs"]) == 1
    with path.open("a") as file:
        file.write(json.dumps({"kind": "measured", "step_s": 0}) + "\n")
    with pytest.raises(DataError, match="line 3: step_s is 0"):
        verbs.missed(WORDS, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count,tp\n16,8\n", "none of the columns step_s"),
        ("count,step_s\n16,fast\n", "line 2, step_s: could not convert"),
        ("count,step_s\nmany,1\n", "line 2, count: invalid literal"),
        ("count,step_s\n16,0\n", "line 2: step_s is 0"),
        ("count,step_s\n16,nan\n", "line 2: step_s is nan"),
        ("count,pp,step_s\n16,0,1\n", "line 2: pp is 0"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        misses.read_runs(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({**WORDS, "tp": 3, "count": "3"}, "line 2: tp=3 does not divide"),
        ({**WORDS, "on": None}, "line 2: which chip did it run on"),
        ({**WORDS, "on": ["b100"]}, "line 2: unknown chip"),
        ({**WORDS, "model": "gpt:175b", "tp": 1, "pp": 1, "count": "1"}, "line 2: 1 x a100-sxm-80gb: needs"),
    ],
)
def test_runs_that_cannot_be_planned_are_told_with_their_line(tmp_path, words, message):
    path = tmp_path / "runs.csv"
    path.write_text("batch,step_s\n64,1\n")
    with pytest.raises(UsageError, match=message):
        verbs.missed(words, path)


def test_columns_may_be_spelt_as_the_options_are_and_rows_may_be_longer(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("Count, micro-batch ,step_s\n16,2,1,\n")
    (run,) = misses.read_runs(path)
    assert (run["count"], run["micro_batch"], run["step_s"]) == (16, 2, 1.0)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        misses.read_runs(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        misses.read_runs(tmp_path / "none.jsonl")
