"""What tables mean by the names of models and chips, whatever their spelling."""

from __future__ import annotations

import re
from functools import cache

from trimtab.plan import chips, models
from trimtab.plan.evidence import NotPlanned
from trimtab.values.architecture import Architecture
from trimtab.values.chip import Chip

SIZE = re.compile(r"(?<![\w.])(\d+x)?\d+(\.\d+)?[bmt](-a\d+(\.\d+)?b)?(?![\w.])")
"""Such as 70b, 8x7b, 30b-a3b and 1.5b."""
FAMILIES = (
    (r"gpt-?oss", "gpt-oss"),
    (r"gpt-?j", "gpt-j"),
    (r"gpt-?neox", "gpt-neox"),
    (r"gpt-?[23]?|megatron", "gpt"),
    (r"(code)?llama-?2", "llama2"),
    (r"llama-?3(\.\d)?", "llama3"),
    (r"llama-?4", "llama4"),
    (r"llama", "llama"),
    (r"qwen-?2(\.5)?", "qwen2"),
    (r"qwen-?3", "qwen3"),
    (r"gemma-?2", "gemma2"),
    (r"gemma-?3", "gemma3"),
    (r"nemotron-?4", "nemotron"),
)
"""Families whose names are spelt in many ways; the first that fits counts, and others stand for themselves."""
FIXED = (
    (r"deepseek.*(v3|r1)", "deepseek:v3"),
    (r"deepseek.*v2-lite", "deepseek:v2-lite"),
    (r"deepseek.*v2", "deepseek:v2"),
    (r"llama-?4.*scout", "llama4:scout"),
    (r"llama-?4.*maverick", "llama4:maverick"),
    (r"kimi-?k2", "kimi:k2"),
    (r"gpt-?2-(124m|small)$", "gpt:125m"),
    (r"gpt-?2-(350m|medium)$", "gpt:350m"),
    (r"gpt-?2-(774m|large)$", "gpt:774m"),
    (r"gpt-?2-(1558m|1\.5b|xl)$", "gpt:1.5b"),
    (r"bert.*large", "bert:large"),
    (r"bert.*base", "bert:base"),
)
"""Models that no size tells."""
OTHER_SHAPE = re.compile(
    r"nemotron-?(nano|5|h\b)|omni|minitron|distill|deepseek-r1.*(qwen|llama)|gemma-3n|-vl-2b|flux|diffus|mamba|jamba"
)
"""Models whose layers are of another kind than their family's."""
ASIDE = r"\((?![^)]*(\d ?gb|sxm|pcie|nvl))[^)]*\)"
"""What stands in parentheses, but for memory and form."""
MAKERS = re.compile(rf"nvidia|amd|intel|google|tesla|{ASIDE}|\bcts\b|^dgx")
SPELT = (
    (r"tpu[ -]?v?(?=\d)", "tpu-v"),
    (r"^v(\d[a-z]?)(-\d+)?$", r"tpu-v\1"),
    (r"gaudi[ -](?=\d)", "gaudi"),
    (r"(?<=\d) gb", "gb"),
)
"""Spellings of chips, and how the shelf writes them."""
NEAR = 0.1
"""Share by which a chip's memory may be told to be more or less: what a system leaves of it differs."""
FORMS = {"sxm2": "sxm", "sxm3": "sxm", "sxm4": "sxm", "sxm5": "sxm", "sxm6": "sxm", "pcie": "pcie", "nvl": "nvl"}
MEMORY = re.compile(r"(\d+)gb?")


@cache
def architecture(text: str) -> Architecture:
    """Return the architecture that a table means.

    >>> [architecture(name).name for name in ("LLAMA3.1_405B", "Qwen/Qwen3-30B-A3B-Thinking-2507", "GPT3-175B")]
    ['llama3:405b', 'qwen3:30b-a3b', 'gpt:175b']

    Raises:
        NotPlanned: none is known for it.
    """
    word = re.sub(r"[\s_]+", "-", text.lower().rpartition("/")[2]).removeprefix("meta-")
    name = None if OTHER_SHAPE.search(word) else _name(word)
    if name is None:
        raise NotPlanned(f"no architecture {text}")
    return models.named(name)


def _name(word: str) -> str | None:
    fixed = next((name for pattern, name in FIXED if re.search(pattern, word)), None)
    size = SIZE.search(word)
    if fixed is None and size is not None:
        start = word[: size.start()].strip("-")
        family = next((name for pattern, name in FAMILIES if re.match(pattern, start)), start.partition("-")[0])
        fixed = f"{family}:{size[0]}"
    return fixed if fixed in models.names() else None


@cache
def chip(text: str) -> Chip:
    """Return the chip that a table means; where it tells neither form nor memory, the largest of its name on SXM.

    >>> [chip(name).name for name in ("NVIDIA A100-SXM4-80GB (400W)", "NVIDIA A30", "DGX-H100", "a100_40gb")]
    ['a100-sxm-80gb', 'a30-24gb', 'h100-sxm-80gb', 'a100-sxm-40gb']

    Raises:
        NotPlanned: none is on the shelf; one of another form or memory is another.
    """
    plain = MAKERS.sub("", text.lower()).strip()
    for pattern, written in SPELT:
        plain = re.sub(pattern, written, plain)
    words = [FORMS.get(word, word) for word in re.split(r"[\W_]+", plain) if word]
    best = max((fit for fit in (_fit(name, words) for name in chips.names()) if fit), default=None)
    if best is None:
        raise NotPlanned(f"no chip {text}")
    return chips.load(best[-1])


def _fit(name: str, words: list[str]) -> tuple[int, bool, int, str] | None:
    """Return how well a chip fits, the better the greater; None where it is another."""
    parts = name.split("-")
    memory = [part for part in parts if MEMORY.fullmatch(part)]
    form = [part for part in (FORMS.get(part, part) for part in parts) if part in FORMS.values()]
    base = [part for part in parts if part not in memory and FORMS.get(part, part) not in FORMS.values()]
    told = [word for word in words if word in FORMS.values()], [word for word in words if MEMORY.fullmatch(word)]
    named = all(part in words for part in base)
    large = _number(memory)
    fits = (not told[0] or not form or told[0] == form) and (
        not told[1] or abs(_number(told[1]) - large) <= NEAR * large
    )
    if not (named and fits):
        return None
    return len(base), form not in (["pcie"], ["nvl"]), _number(memory), name


def _number(words: list[str]) -> int:
    found = MEMORY.fullmatch(words[0]) if words else None
    return int(found[1]) if found else 0
