"""Architectures have as many parameters as published, and configurations of folders are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError, UnknownName
from trimtab.plan import models
from trimtab.values.architecture import Architecture

PUBLISHED = {
    "gpt:175b": 174.6e9,
    "gpt:1t": 1008.0e9,
    "llama2:7b": 6.738e9,
    "llama2:13b": 13.016e9,
    "llama2:70b": 68.977e9,
    "llama3:8b": 8.03e9,
    "llama3:405b": 405.9e9,
    "bloom:176b": 176.247e9,
    "mixtral:8x7b": 46.7e9,
    "deepseek:v3": 671e9,
    "qwen3:235b-a22b": 235e9,
    "gpt-oss:120b": 116.8e9,
    "palm:540b": 540.35e9,
}
ACTIVE = {"mixtral:8x7b": 12.9e9, "deepseek:v3": 37e9, "qwen3:30b-a3b": 3.3e9, "gpt-oss:20b": 3.6e9}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    assert models.named(name).parameters == pytest.approx(PUBLISHED[name], rel=0.005)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_those_published(name):
    assert models.named(name).active_parameters == pytest.approx(ACTIVE[name], rel=0.2)


def test_near_names_are_told():
    with pytest.raises(UnknownName, match="did you mean llama3:70b"):
        models.parse("llama3:70bb")


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def test_a_folder_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = models.parse(f"hf:{tmp_path}")
    assert found.parameters == models.named("llama3:8b").parameters
    assert found.gated


def test_gpt2_has_learned_positions_and_no_gate(tmp_path):
    config = {
        "model_type": "gpt2",
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.from_folder(tmp_path).parameters == pytest.approx(124e6, rel=0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no object"),
        ("{}", "does not tell layers"),
        (json.dumps(LLAMA | {"num_key_value_heads": 5}), "cannot share 5"),
        (json.dumps(LLAMA | {"num_hidden_layers": 0}), "whole number from 1"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        models.parse(f"hf:{tmp_path}")
    with pytest.raises(DataError, match="cannot be read"):
        models.parse(f"hf:{tmp_path / 'none'}")


def test_numbers_by_hand():
    found = models.parse("arch(layers=2, hidden=64, heads=4, ffn=256, vocab=1000)")
    assert (found.layers, found.kv, found.head) == (2, 4, 16)
    for text in ("arch(layers=)", "arch(width=3)", "arch(layers=2)"):
        with pytest.raises(DataError):
            models.parse(text)


@given(layers=st.integers(1, 40), heads=st.integers(1, 16), head=st.integers(8, 64), vocab=st.integers(100, 50000))
def test_parameters_grow_with_everything(layers, heads, head, vocab):
    small = Architecture("a", layers, heads * head, heads, 4 * heads * head, vocab)
    deeper = Architecture("b", layers + 1, heads * head, heads, 4 * heads * head, vocab)
    assert deeper.parameters - small.parameters == 12 * small.hidden**2
    assert small.active_parameters == small.parameters
