"""Tables spell models and chips in many ways; what is of another kind is not taken for its neighbour."""

import csv

import pytest

from trimtab.plan import chips, models
from trimtab.plan.evidence import NotPlanned, Skipped, read
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.validate import TABLES

MODELS = {
    "LLAMA3.1_405B": "llama3:405b",
    "LLAMA2-7B": "llama2:7b",
    "LLaMA 70B": "llama:70b",
    "GPT3-175B": "gpt:175b",
    "DeepSeekV3 (tokendrop)": "deepseek:v3",
    "deepseek-ai/DeepSeek-R1": "deepseek:v3",
    "Qwen3_30B_a3B (tokendrop)": "qwen3:30b-a3b",
    "Qwen/Qwen3-235B-A22B-Thinking-2507-FP8": "qwen3:235b-a22b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama3:70b",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": "llama4:maverick",
    "google/gemma-3-12b-it": "gemma3:12b",
    "Mixtral-8x7B": "mixtral:8x7b",
    "openai/gpt-oss-120b": "gpt-oss:120b",
    "GPT-J 6B": "gpt-j:6b",
    "llm.c GPT-2 124M": "gpt:125m",
    "gpt2_large": "gpt:774m",
    "Falcon 180B": "falcon:180b",
    "Nemotron-340B": "nemotron:340b",
    "NEMOTRON4_340B": "nemotron:340b",
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "llama3:8b",
}
CHIPS = {
    "NVIDIA A100-SXM4-80GB (400W)": "a100-sxm-80gb",
    "NVIDIA A100-SXM-80GB CTS": "a100-sxm-80gb",
    "NVIDIA A100 - PCIe - 80 GB": "a100-pcie-80gb",
    "A100-40GB": "a100-sxm-40gb",
    "H100": "h100-sxm-80gb",
    "DGX-H100": "h100-sxm-80gb",
    "NVIDIA H100-PCIe": "h100-pcie-80gb",
    "NVIDIA H100-NVL-94GB": "h100-nvl-94gb",
    "NVIDIA H200-SXM5-141GB": "h200-sxm-141gb",
    "b200_sxm": "b200-sxm-180gb",
    "DGX-GB200": "gb200-186gb",
    "AMD Instinct MI300X 192GB HBM3": "mi300x-192gb",
    "NVIDIA A30-PCIE-24GB": "a30-24gb",
    "V100-SXM2": "v100-sxm2-32gb",
    "TPU v4": "tpu-v4",
    "NVIDIA L40S": "l40s-48gb",
    "NVIDIA L40": "l40-48gb",
    "NVIDIA RTX A5000": "rtx-a5000-24gb",
    "A100 (40GB)": "a100-sxm-40gb",
    "H100 (PCIe)": "h100-pcie-80gb",
    "A100-SXM (8-GPU node)": "a100-sxm-80gb",
    "TPUv4": "tpu-v4",
    "TPU v6e": "tpu-v6e",
    "v5p-128": "tpu-v5p",
    "Intel Gaudi 2": "gaudi2",
    "V100-SXM2-16GB": "v100-sxm2-16gb",
    "NVIDIA B200 192 GB": "b200-sxm-180gb",
}


@pytest.mark.parametrize("text", MODELS)
def test_models_are_known_by_any_spelling(text):
    assert architecture(text).name == MODELS[text]


@pytest.mark.parametrize("text", CHIPS)
def test_chips_are_known_by_any_spelling(text):
    assert chip(text).name == CHIPS[text]


def test_every_shelf_name_is_its_own():
    assert all(chip(name).name == name for name in chips.names())
    assert {architecture(name.replace(":", "-")).name for name in models.names()} >= set(models.names())


@pytest.mark.parametrize(
    "text", ["nvidia/NVIDIA-Nemotron-Nano-9B-v2", "SANA1.5_1.6B", "Llama-3.1-71B", "DeepSeek-R1-0528-Qwen3-8B", ""]
)
def test_other_models_are_not_planned(text):
    with pytest.raises(NotPlanned, match="no architecture"):
        architecture(text)


@pytest.mark.parametrize("text", ["NVIDIA H100-SXM5-96GB", "GH200-144GB", "x900_80gb", "N/A", ""])
def test_other_chips_are_not_planned(text):
    with pytest.raises(NotPlanned, match="no chip"):
        chip(text)


def test_layouts_that_cannot_be_are_counted_not_fatal(tmp_path):
    lines = list(csv.reader((TABLES / "train_nvidia_nemo.csv").read_text().splitlines()))
    gpus = lines[0].index("gpus")
    lines[1][gpus] = "0"
    with (tmp_path / "train_nvidia_nemo.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    found = [one for _, one in read(tmp_path)]
    assert [one.reason for one in found if isinstance(one, Skipped)] == [
        "degrees of parallelism that its chips cannot have"
    ]
