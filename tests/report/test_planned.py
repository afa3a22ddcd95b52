"""The planner's documents as the terminal and the pages show them."""

import io
import re

import pytest
from rich.console import Console

from trimtab.plan import verbs
from trimtab.report.faces import FACES
from trimtab.report.planned import quantity_of
from trimtab.report.planned_page import PAGES


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    rows = [f"{n},{d},{1.8 + 480 / n**0.35 + 2000 / d**0.37}" for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    runs = tmp_path_factory.mktemp("runs") / "runs.csv"
    runs.write_text("\n".join(["params,tokens,loss", *rows]))
    chips = ["a100-sxm-80gb,h100-sxm,t4"]
    return {
        "train": verbs.train({"model": "llama:7b", "tokens": "1e12", "on": chips, "count": "8,64", "deadline": "200d"}),
        "one": verbs.train({"model": "gpt:175b", "tokens": "3e11", "on": ["a100-sxm-80gb"], "count": "1024"}),
        "net": verbs.train({"model": "resnet50", "samples": "1e8", "on": chips}),
        "serve": verbs.serve({"model": "llama:8b", "on": chips}),
        "law": verbs.forecast(runs),
    }


def shown(kind, document, width):
    out = io.StringIO()
    Console(file=out, width=width).print(FACES[kind](document))
    assert "…" not in out.getvalue()
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 150])
@pytest.mark.parametrize("name", ["train", "one", "net", "serve"])
def test_a_plan_in_the_terminal(documents, name, width):
    text = shown("planned", documents[name], width)
    assert "predicted, with 90% intervals" in " ".join(text.split())
    assert all(len(line) <= width for line in text.splitlines())
    plan = documents[name]["plans"][0]
    assert f"{plan['count']} x {plan['chip']}" in text
    assert plan["layout"].split()[0] in text
    assert ("from 130 columns on" in text) == (width == 80)


def test_one_plan_is_told_in_full_and_the_others_have_reasons(documents):
    text = shown("planned", documents["one"], 150)
    assert "where it goes" in text
    assert "best spent on tokens" in " ".join(text.split())
    text = shown("planned", documents["train"], 150)
    assert "why not" in text
    assert "t4-16gb" in text


def test_a_forecast_in_the_terminal(documents):
    text = shown("forecast", documents["law"], 120)
    assert "L(N, D) = 1.8" in text
    assert "best parameters" in text


def test_a_validation_in_the_terminal():
    line = {
        "table": "t",
        "scored": 2,
        "rows": 2,
        "not_scored": {},
        "median_ape": 0.1,
        "held_out_ape": None,
        "mean_ape": 0.2,
        "max_ape": 0.3,
        "bias": -0.1,
    }
    line |= {"coverage50": 0.5, "coverage90": 0.9, "naive": {"roofline": 0.4}, "skill": None}
    text = shown("validation", {"tables": [line], "not_scored": {"why": 3}, "pooled": {"scored": 2}}, 120)
    assert "40.0%" in text
    assert "3 rows: why" in text


@pytest.mark.parametrize("name", ["train", "one", "net", "serve"])
def test_the_page_of_a_plan(documents, name):
    html = PAGES["planned"](documents[name])
    assert html.startswith("<!doctype html>")
    assert "<script" not in html
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert ("<svg" in html) == (len(documents[name]["plans"]) > 1)
    assert "Where the time goes" in html or name == "serve"


def test_names_in_a_document_cannot_become_markup(documents):
    html = PAGES["planned"]({**documents["one"], "model": "<b>x</b>"})
    assert "<b>x</b>" not in html


def test_the_page_of_a_forecast(documents):
    html = PAGES["forecast"](documents["law"])
    assert html.count("<polyline") == 6
    assert "budget" in html


def test_large_numbers_in_short():
    assert [quantity_of(value) for value in (5.0, 1.5e6, 2e9, 3e12)] == ["5", "1.5M", "2B", "3T"]
