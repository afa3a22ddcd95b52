"""Opens architectures: by name (`gpt:175b`), from a folder's `config.json` (`hf:FOLDER`), or from numbers."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from trimtab.errors import DataError, UnknownName
from trimtab.values.architecture import Architecture

FIELDS = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "qk_nope_head_dim"),
    "experts": ("n_routed_experts", "num_local_experts", "num_experts"),
    "active": ("num_experts_per_tok", "num_experts_per_token"),
    "shared": ("n_shared_experts",),
    "expert_ffn": ("moe_intermediate_size",),
    "dense_layers": ("first_k_dense_replace",),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "rope_dim": ("qk_rope_head_dim",),
}
"""What each number is called in `config.json` files; the first that is there counts."""
LEARNED = ("gpt2", "opt", "bert", "roberta", "distilbert", "mpt")
"""Model types with learned positions."""
UNGATED = (*LEARNED, "gptj", "gpt_neox", "falcon", "bloom", "phi", "nemotron", "starcoder2")


@lru_cache(maxsize=1)
def families() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what there is: family -> size -> numbers."""
    return tomllib.loads((Path(__file__).parent / "models.toml").read_text())


def names() -> tuple[str, ...]:
    """Return every name, such as `gpt:175b`."""
    return tuple(f"{family}:{size}" for family, sizes in families().items() for size in sizes)


def named(name: str) -> Architecture:
    """Return the architecture of a name such as `llama:70b`.

    Raises:
        UnknownName: there is none; names the nearest.
    """
    family, _, size = name.lower().partition(":")
    found = families().get(family, {}).get(size)
    if found is None:
        raise UnknownName("architecture", name, names())
    return Architecture.from_json(f"{family}:{size}", found)


def from_folder(folder: Path) -> Architecture:
    """Return the architecture that a folder's `config.json` tells.

    Raises:
        DataError: there is no such file, it cannot be read, or numbers are missing: says which.
    """
    path = folder / "config.json" if folder.is_dir() else folder
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a model's configuration: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} holds no object of numbers")
    return from_config(folder.name, config.get("text_config", config), path)


def from_config(name: str, config: Mapping[str, Any], path: Path) -> Architecture:
    """Return the architecture that a `config.json` tells, as `from_folder`."""
    found: dict[str, Any] = {}
    for field, called in FIELDS.items():
        value = next((config[one] for one in called if config.get(one) is not None), None)
        if value is not None:
            found[field] = value
    if "hidden" in found and "ffn" not in found:
        found["ffn"] = 4 * found["hidden"]
    missing = [field for field in ("layers", "hidden", "heads", "ffn", "vocab") if field not in found]
    if missing:
        raise DataError(f"{path} does not tell {', '.join(missing)} ({', '.join(FIELDS[missing[0]])})")
    if found.get("experts") and not found.get("expert_ffn"):
        found["expert_ffn"] = found["ffn"]
    if not found.get("experts"):
        for field in ("experts", "active", "shared", "expert_ffn", "dense_layers"):
            found.pop(field, None)
    kind = str(config.get("model_type", ""))
    found["gated"] = not kind.startswith(UNGATED)
    found["tied"] = bool(config.get("tie_word_embeddings", kind in LEARNED))
    if kind in LEARNED:
        found["positions"] = int(config.get("max_position_embeddings", config.get("n_positions", 0)) or 0)
    return Architecture.from_json(name, found)


def parse(text: str) -> Architecture:
    """Return the architecture that a word means: `gpt:175b`, `hf:FOLDER`, or `arch(layers=24, hidden=1024, ...)`.

    Raises:
        UnknownName: no such name.
        DataError: the folder or the numbers cannot be used.
    """
    if text.startswith("hf:"):
        return from_folder(Path(text[3:]))
    numbers = re.fullmatch(r"arch\((.*)\)", text.strip())
    if numbers is None:
        return named(text)
    try:
        return Architecture.from_json("arch", tomllib.loads(f"given = {{ {numbers[1]} }}")["given"])
    except tomllib.TOMLDecodeError as error:
        raise DataError(
            f"{text!r} cannot be read: arch(layers=24, hidden=1024, heads=16, ffn=4096, vocab=50257)"
        ) from error
