"""The planner's verbs: words in, documents out, and what is wrong with the words is said."""

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError, UnknownName, UsageError
from trimtab.plan import carbon, trainings, units, verbs
from trimtab.plan.costs import Bill, Limits, Terms, lost_share

A100 = {"on": ["a100-sxm-80gb"], "count": "1024"}
GPT3 = {"model": "gpt:175b", "tokens": "300e9", **A100}


def test_a_training_is_planned():
    found = verbs.train(GPT3)
    plan = found["plans"][0]
    assert 15 < plan["figures"]["days"]["value"] < 35
    assert plan["figures"]["days"]["low"] < plan["figures"]["days"]["value"] < plan["figures"]["days"]["high"]
    assert all(figure["origin"] == "predicted" for figure in plan["figures"].values())
    assert sum(plan["time_parts"].values()) == pytest.approx(1)
    assert sum(plan["memory_parts"].values()) == pytest.approx(plan["figures"]["memory_gib"]["value"])
    json.dumps(found, allow_nan=False)


def test_gpt3_was_trained_on_too_few_tokens():
    """Hoffmann et al. 2022, section 1."""
    found = verbs.train(GPT3)["advice"]
    assert found["best"]["parameters"] < 175e9
    assert found["best"]["loss"] < found["loss"]
    assert found["marginal"]["tokens"] > found["marginal"]["parameters"]
    assert "advice" not in verbs.train({**GPT3, "model": "mixtral:8x7b"})


def test_what_is_fixed_stays():
    layout = verbs.train({**GPT3, "tp": 8, "pp": 8, "recompute": "full", "micro_batch": 2})["plans"][0]["layout"]
    assert layout.startswith("tp=8 pp=8 dp=16")
    assert "micro_batch=2" in layout
    assert "recompute=full" in layout


@pytest.mark.slow
def test_every_chip_is_kept_or_told_why_not():
    found = verbs.train({"model": "llama:7b", "tokens": "1e12", "deadline": "30d", "budget": "3e5usd"})
    told = {plan["chip"] for plan in found["plans"]} | {one["chip"] for one in found["rejected"]}
    assert told == set(verbs.chips.names())
    assert not {plan["chip"] for plan in found["plans"]} & {one["chip"] for one in found["rejected"]}
    for plan in found["plans"]:
        assert plan["figures"]["days"]["value"] <= 30
        assert plan["figures"]["money_usd"]["value"] <= 3e5
    best = [found["plans"][place]["figures"]["money_usd"]["value"] for place in found["pareto"]]
    assert min(best) == min(plan["figures"]["money_usd"]["value"] for plan in found["plans"])


def test_a_net_is_planned_by_its_samples():
    found = verbs.train({"model": "resnet50", "samples": "1.28e6x35", "on": ["h100-sxm"], "count": "8", "batch": 400})
    assert found["plans"][0]["figures"]["days"]["value"] * 24 * 60 == pytest.approx(
        13.4, rel=0.2
    )  # MLPerf v3.0, minutes
    with pytest.raises(UsageError, match="give --samples"):
        verbs.train({"model": "resnet50"})
    with pytest.raises(UsageError, match="a smaller --batch"):
        verbs.train({"model": "resnet50", "samples": "1e6", "on": ["t4"], "batch": 4096})


def test_an_onnx_file_is_planned(tmp_path):
    weight = onnx.numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w")
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, [1, 3, 32, 32])], [value("y", 1, [1, 8, 32, 32])], [weight]
    )
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    work = verbs._net(f"onnx:{path}")
    assert (work.operations, work.activations, work.layers) == (2 * 27 * 8 * 1024, 8 * 1024, 1)
    path.write_bytes(b"no model")
    with pytest.raises(DataError, match="cannot be read as an ONNX model"):
        verbs.train({"model": f"onnx:{path}", "samples": "1e6"})


WRONG = {
    "how much is to be trained on": {"tokens": None},
    "is no amount": {"tokens": "many"},
    "does not divide --count 1024": {"tp": 3},
    "more stages than the 96 layers": {"pp": 256},
    "did you mean gpt:175b": {"model": "gpt:175c"},
    "did you mean a100-sxm-80gb": {"on": ["a100-sxm-8gb"]},
    "no products of both fp8": {"dtype": "fp8"},
    "planned in bf16, fp16, fp8": {"dtype": "int8"},
    "--samples do not apply": {"samples": "1e6"},
    "needs pp above 1": {"pp": 1, "interleave": 2},
    "whole numbers such as": {"count": "many"},
    "from 1 on": {"count": "0"},
    "raise that limit": {"budget": "10usd"},
    "times the deadline": {"deadline": "1h"},
    "is no duration": {"deadline": "soon"},
    "in US dollars": {"budget": "5eur"},
    "more chips, or a larger memory": {"count": "8"},
    "unknown region": {"region": "XYZ"},
    "unknown stack": {"stack": "none"},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_said(message):
    with pytest.raises(UsageError, match=message):
        verbs.train({**GPT3, **WRONG[message]})


FIXED = [
    {"model": "mixtral:8x7b", "count": "64", "ep": 8, "dp": 4},
    {"model": "llama:70b", "count": "64", "interleave": 4},
    {"model": "llama:70b", "count": "8,12,64", "tp": 8, "zero": 3},
    {"model": "llama:70b", "count": None, "tp": 8, "pp": 5, "dp": 16},
    {"model": "deepseek:v3", "count": "2048"},
    {"model": "llama:405b", "count": "4096", "zero": 3},
    {"model": "gpt:7.5b", "count": "64", "dtype": "fp16", "recompute": "operators"},
    {"model": "gpt:7.5b", "count": "32", "stack": "fsdp-compiled"},
    {"model": "gpt:1.7b", "count": "1", "batch": 3},
    {"model": "llama3:8b", "count": "64", "cp": 4, "seq": 65536, "batch": 64},
]


@pytest.mark.parametrize("words", FIXED, ids=lambda words: words["model"] + str(len(words)))
def test_layouts_that_can_be_are_planned(words):
    found = verbs.train({"tokens": "1e11", "on": ["h100-sxm"], **words})
    assert found["plans"]
    json.dumps(found, allow_nan=False)


def test_a_chip_without_a_link_or_a_network_is_planned(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("memory_gb = 48\nbandwidth_gbs = 900\npeak_tflops = { fp16 = 100.0 }\n")
    for words in ({"model": "gpt:1.7b", "tokens": "1e9"}, {"model": "resnet50", "samples": "1e6"}):
        assert verbs.train({**words, "on": [str(path)], "count": "1,8"})["plans"]
    assert verbs.serve({"model": "gpt:1.7b", "on": [str(path)], "tp": 2})["plans"]
    path.write_text("memory_gb = 48\nbandwidth_gbs = 900\npeak_tflops = { int8 = 100.0 }\n")
    found = verbs.train({"model": "gpt:1.7b", "tokens": "1e9", "on": ["h100-sxm", str(path)], "count": "8"})
    assert "16 bits" in found["rejected"][0]["why"]


def test_words_that_do_not_apply_are_said():
    for verb, words in (
        (verbs.train, {"model": "resnet50", "samples": "1e6", "tp": 8, "seq": 4096}),
        (verbs.serve, {"model": "llama:8b", "budget": "5usd"}),
        (verbs.serve, {"model": "llama:8b", "pp": 4}),
    ):
        with pytest.raises(UsageError, match="do not apply to"):
            verb(words)


def test_a_price_of_ones_own_and_a_place():
    dear, cheap = (verbs.train({**GPT3, "price": price, "region": "FRA"}) for price in (4.0, 1.0))
    money = [found["plans"][0]["figures"]["money_usd"]["value"] for found in (dear, cheap)]
    assert money[0] == pytest.approx(4 * money[1])
    assert dear["place"]["g_per_kwh"] < carbon.WORLD_G


def test_chips_without_watts_or_price_have_no_such_figures():
    plan = verbs.train({"model": "llama:7b", "tokens": "1e12", "on": ["tpu-v7x"], "count": "64"})["plans"][0]
    assert not {"energy_mwh", "co2_t", "money_usd"} & set(plan["figures"])


def table(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_forecast(tmp_path):
    rows = [f"{n},{d},{1.8 + 480 / n**0.35 + 2000 / d**0.37}" for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    found = verbs.forecast(table(tmp_path, "\n".join(["Params,Tokens,Loss", *rows])), 1e23)
    assert found["compute"] == 1e23
    assert found["law"]["alpha"] == pytest.approx(0.35, rel=0.1)
    assert len(found["curve"]) == 25
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column parameters; it has no rows"),
        ("params,loss\n1,2\n", "lacks the column tokens"),
        ("params,tokens,loss\n1e6,1e8,x\n", "line 2"),
        ("params,tokens,loss\n1e6,1e8,2\n", "at least 6 runs"),
        ("params,tokens,loss\n" + "1e6,1e8,-2\n" * 8, "above 0"),
        ("\ufeffparams, tokens ,loss\n1e6,1e8,2,\n", "at least 6 runs"),
    ],
)
def test_what_is_wrong_with_runs_is_said(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        verbs.forecast(table(tmp_path, text))
    with pytest.raises(DataError, match="cannot be read"):
        verbs.forecast(tmp_path / "none.csv")


@given(st.floats(1, 1e15, allow_nan=False))
def test_amounts_are_read_as_they_are_written(value):
    assert units.count(f"{value:.6g}") == pytest.approx(value, rel=1e-5)
    assert units.seconds(f"{value:.6g}s") == pytest.approx(value, rel=1e-5)
    assert units.usd(f"${value:.6g}") == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("text", ["", "-3", "1e", "0", "1x2x3", "nan", "3 apples"])
def test_what_is_no_amount(text):
    for read in (units.count, units.usd, units.seconds):
        with pytest.raises(UsageError):
            read(text)


def test_long_runs_lose_time_and_larger_ones_more():
    """Llama 3 (arXiv 2407.21783, section 3.3.4): above 90% effective training time on 16,384 chips."""
    shares = [lost_share(chips, 405e9) for chips in (8, 1024, 16384)]
    assert shares == sorted(shares)
    assert shares[-1] < 0.1


def test_unknown_regions_and_limits():
    with pytest.raises(UnknownName):
        Terms.of("gcp:nowhere")
    job = trainings.best(trainings.Order(verbs.models.named("llama:7b"), 1e9), verbs.chips.load("h100-sxm"), 8)
    bill: Bill = job.bill
    assert bill.broken(Limits()) == []
    assert bill.distance(Limits(budget_usd=bill.usd / 2)) == pytest.approx(2)
