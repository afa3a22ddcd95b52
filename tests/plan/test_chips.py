"""Chips' facts are those of the published table, and a file of one's own is checked."""

import csv
from pathlib import Path

import pytest

from trimtab.errors import DataError, UnknownName
from trimtab.plan import chips
from trimtab.plan.rates import Rates, constants
from trimtab.values.chip import Chip

TABLES = Path(__file__).resolve().parents[2] / "benchmarks" / "tables"
COLUMNS = {"fp32": "fp32_tflops", "bf16": "bf16_dense_tflops", "fp8": "fp8_dense_tflops", "int8": "int8_dense_tops"}


def file_name(text):
    name = text.split(" (")[0].replace("Xeon-Platinum-", "xeon-").replace("RTX-PRO-6000-Blackwell", "rtx-pro-6000")
    return name.lower().replace("+", "")


def published():
    with (TABLES / "hw_accelerators.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", published(), ids=lambda row: row["name"])
def test_facts_are_those_published(row):
    chip = chips.load(file_name(row["name"]))
    peaks = {dtype: float(row[column]) for dtype, column in COLUMNS.items() if row[column]}
    assert {dtype: chip.peak_tflops[dtype] for dtype in peaks} == peaks
    assert chip.memory_gb == float(row["mem_gb"])
    assert chip.bandwidth_gbs == float(row["mem_bw_gbs"])
    assert chip.link_gbs == float(row["scaleup_bw_gbs_per_dir"])
    if row["tdp_w"]:
        assert chip.full_w == float(row["tdp_w"])
    if row["measured_max_matmul_bf16_tflops"]:
        assert chip.matmul("bf16") == pytest.approx(float(row["measured_max_matmul_bf16_tflops"]))


@pytest.mark.parametrize("name", chips.names())
def test_facts_make_sense(name):
    chip = chips.load(name)
    assert all(
        chip.matmul_tflops[dtype] <= peak for dtype, peak in chip.peak_tflops.items() if dtype in chip.matmul_tflops
    )
    assert chip.peak_tflops.get("fp8", 1e9) >= chip.peak_tflops.get("bf16", 0)
    assert "peak_tflops" in chip.sources
    assert not chip.usd_per_hour or (chip.price_date and chip.sources["usd_per_hour"])
    assert chip.spot_usd_per_hour <= chip.usd_per_hour or not chip.usd_per_hour


@pytest.mark.parametrize("name", [name for name in chips.names() if chips.load(name).has("bf16")])
def test_products_are_no_faster_than_the_peak(name):
    chip = chips.load(name)
    rates = Rates(chip, constants())
    for dtype in chip.peak_tflops:
        assert rates.product_rate(dtype) <= chip.peak(dtype) * 1e12


@pytest.mark.parametrize(("one", "twin"), [("h800-sxm-80gb", "h100-sxm-80gb"), ("a800-sxm-80gb", "a100-sxm-80gb")])
def test_the_same_die_multiplies_as_fast_whatever_its_links(one, twin):
    first, second = (Rates(chips.load(name), constants()) for name in (one, twin))
    assert first.product_rate("bf16") == pytest.approx(second.product_rate("bf16"))
    assert first.attention_rate("native") == pytest.approx(second.attention_rate("native"))


def test_names_may_be_short_where_they_tell():
    assert chips.load("h100-sxm").name == "h100-sxm-80gb"
    for name in ("a100-sxm", "h101"):
        with pytest.raises(UnknownName):
            chips.load(name)


GOOD = 'kind = "asic"\nmemory_gb = 24\nbandwidth_gbs = 900\npeak_tflops = { bf16 = 100.0 }\n'


def test_a_chip_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    chip = chips.load(str(path))
    assert (chip.name, chip.peak("fp16"), chip.matmul("bf16")) == ("mine", 100.0, None)
    with pytest.raises(DataError, match="has no fp8 rate; it has bf16"):
        chip.peak("fp8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_gb = [", "cannot read"),
        (GOOD + "cores = 3\n", "unknown facts cores"),
        (GOOD + "full_w = -1\n", "from 0 on"),
        ('bandwidth_gbs = "much"\n' + GOOD.replace("bandwidth_gbs = 900\n", ""), "from 0 on"),
        ("memory_gb = 2\n", "missing"),
        ("memory_gb = 0\npeak_tflops = {}\n", "cannot be left out"),
        (GOOD.replace("bandwidth_gbs = 900\n", ""), "bandwidth_gbs cannot be left out"),
        (GOOD + "full_w = nan\n", "from 0 on"),
        (GOOD + "link_chips = 0\n", "whole number from 1"),
        (GOOD.replace("{ bf16 = 100.0 }", "200.0"), "rates above 0 by number format"),
        (GOOD.replace("100.0", '"200"'), "rates above 0 by number format"),
        (GOOD.replace("bf16", "bf15"), "has 'bf15'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Chip.from_toml(path)
