"""A realistic result document, made by code with a seed."""

from __future__ import annotations

import math
import random
from typing import Any

RECIPES = [
    ("onnx @ onnxruntime(threads=1)", 0.0004, 0.52, 1.0, "dominated", None),
    ("onnx | quantize(weights=8) @ onnxruntime(threads=1)", 0.0006, 0.40, 0.27, "dominated", None),
    ("onnx | quantize(weights=8, activations=8) @ onnxruntime(threads=1)", 0.0012, 0.285, 0.26, "frontier", None),
    ("onnx @ openvino(threads=1)", 0.0002, 0.47, 1.0, "frontier", None),
    ("prune(ratio=0.3) | distill(epochs=3) | onnx @ openvino(threads=1)", 0.0026, 0.27, 0.5, "dominated", None),
    (
        "prune(ratio=0.3) | distill(epochs=3) | onnx | quantize @ onnxruntime(threads=1)",
        0.003,
        0.182,
        0.14,
        "certified",
        None,
    ),
    (
        "prune(ratio=0.5) | distill(epochs=3) | onnx | quantize @ onnxruntime(threads=1)",
        0.0048,
        0.141,
        0.075,
        "certified",
        None,
    ),
    (
        "prune(ratio=0.7) | distill(epochs=3) | onnx | quantize @ onnxruntime(threads=1)",
        0.0108,
        0.098,
        0.035,
        "not certified",
        "accuracy[class=8] >= base - 0.05 is UNDECIDED: 1,150 more examples would decide it",
    ),
    (
        "prune(ratio=0.85) | distill(epochs=3) | onnx | quantize @ onnxruntime(threads=1)",
        0.031,
        0.071,
        0.014,
        "dropped",
        "accuracy 93.8 % on validation cannot keep the promise (dropped after 180 examples)",
    ),
    (
        "prune(ratio=0.5) | onnx @ onnxruntime(threads=1)",
        0.38,
        0.21,
        0.28,
        "dropped",
        "accuracy 59.0 % on validation cannot keep the promise (dropped after 32 examples)",
    ),
    ("prune(ratio=0.5) | distill(epochs=3) @ torch(threads=1)", 0.0046, 0.63, 0.28, "dominated", None),
    (
        "prune(ratio=0.5) | distill(epochs=3) | onnx | quantize @ openvino(threads=1)",
        None,
        None,
        None,
        "failed",
        "the worker died with signal 11 while the model was loaded",
    ),
    (
        "quantize(weights=4) @ torch(threads=1)",
        None,
        None,
        None,
        "refused",
        "quantize takes 'onnx' but the step before gives 'torch'",
    ),
    (
        "prune(ratio=0.9) | distill(epochs=6) | onnx | quantize @ onnxruntime(threads=1)",
        None,
        None,
        None,
        "not tried",
        "the time given was over",
    ),
]
CHOSEN = RECIPES[6][0]


def reading(value: float, unit: str, spread: float, n: int, origin: str = "measured") -> dict[str, Any]:
    return {
        "value": value,
        "low": value - spread,
        "high": value + spread,
        "unit": unit,
        "n": n,
        "origin": origin,
        "conditions": {"batch": 1},
    }


def share(value: float, n: int) -> dict[str, Any]:
    return reading(value, "share", 1.96 * math.sqrt(value * (1 - value) / n), n)


def base() -> dict[str, Any]:
    return {
        "recipe": "@ torch(threads=1)",
        "accuracy": share(0.9712, 2500),
        "latency_ms": reading(4.213, "ms", 0.06, 412),
        "latency_p90_ms": reading(4.61, "ms", 0.15, 412),
        "size_mb": {
            "value": 1.123,
            "low": None,
            "high": None,
            "unit": "MB",
            "n": None,
            "origin": "measured",
            "conditions": {},
        },
        "memory_mb": reading(61.2, "MB", 0.8, 5),
        "energy_j": reading(0.0442, "J", 0.004, 412, "modelled"),
        "operations": {"value": 41_300_000, "low": None, "high": None, "unit": "count", "origin": "measured"},
    }


def candidate(random_: random.Random, row: tuple[Any, ...]) -> dict[str, Any]:
    recipe, loss, share_of_time, share_of_size, status, reason = row
    known = loss is not None
    time = 4.213 * (share_of_time or 0.12)
    quality = 0.974 - (loss or 0.004)
    predicted = {
        "latency_ms": {"value": time * math.exp(random_.gauss(0, 0.3)), "low": None, "high": None, "unit": "ms"},
        "accuracy": {
            "value": min(0.975, max(quality, 0.935) + random_.gauss(0, 0.004)),
            "low": None,
            "high": None,
            "unit": "share",
        },
    }
    figures = {
        "accuracy": share(quality, 500 if status != "dropped" else 180),
        "latency_ms": reading(time, "ms", time * random_.uniform(0.01, 0.05), 60),
        "size_mb": {
            "value": 1.123 * (share_of_size or 1),
            "low": None,
            "high": None,
            "unit": "MB",
            "origin": "measured",
        },
    }
    return {
        "recipe": recipe,
        "status": status,
        "reason": reason,
        "predicted": predicted if status != "refused" else {},
        "figures": figures if known else {},
        "test": {},
        "seconds": random_.uniform(2, 40) if known else 0.3,
    }


def promise_row(text: str, slice_: str, change: tuple[float, float, float], verdict: str, n: int) -> dict[str, Any]:
    difference, low, high = change
    return {
        "promise": text,
        "slice": slice_,
        "verdict": verdict,
        "base": 0.9712,
        "trimmed": 0.9712 + difference,
        "difference": difference,
        "low": low,
        "high": high,
        "margin": 0.05 if slice_ else 0.01,
        "unit": "share",
        "n": n,
        "p_value": 0.0004 if not slice_ else 0.012,
        "more_examples": 1150 if verdict == "UNDECIDED" else None,
        "method": "Tango 1998",
    }


def promises(random_: random.Random) -> list[dict[str, Any]]:
    rows = [promise_row("accuracy >= base - 0.01", "", (-0.0032, -0.0071, 0.0004), "PASS", 2500)]
    for digit in range(10):
        middle = random_.gauss(-0.004, 0.006)
        change = (middle, middle - random_.uniform(0.012, 0.026), middle + random_.uniform(0.01, 0.02))
        rows.append(
            promise_row("accuracy[class=*] >= base - 0.05", f"class={digit}", change, "PASS", random_.randint(220, 285))
        )
    return rows


CONDITIONS: dict[str, Any] = {
    "machine": {
        "name": "here",
        "cores": 2,
        "isa": ["avx2", "avx512f", "avx512_vnni"],
        "memory_gb": 7.8,
        "peak_gflops": {"fp32": 118.2, "int8": 431.0},
        "bandwidth_gbs": 11.4,
        "idle_w": 20.0,
        "full_w": 65.0,
        "usd_per_hour": 0.096,
        "accelerator": "",
        "power_meter": "",
        "sources": {},
    },
    "versions": {
        "trimtab": "0.1.0",
        "python": "3.11.9",
        "torch": "2.13.0",
        "onnxruntime": "1.31.0",
        "openvino": "2025.4.0",
    },
    "seed": 0,
    "date": "2026-03-14 09:26",
    "load": {"load_1m": 0.31, "steal_share": 0.004},
    "test_openings": 1,
    "splits": {
        "train": {"n": 2000, "sha256": "9f2c" * 16},
        "validation": {"n": 500, "sha256": "03ab" * 16},
        "test": {"n": 2500, "sha256": "e71d" * 16},
    },
    "task": {"name": "mnist5k", "duplicates": 0, "augmentation": "shift(2)", "cleaning": "none"},
}


def result(seed: int = 0) -> dict[str, Any]:
    random_ = random.Random(seed)
    original = base()
    start = {
        "recipe": "@ torch(threads=1)",
        "status": "base",
        "reason": None,
        "predicted": {},
        "seconds": 9.0,
        "test": {},
        "figures": {
            "accuracy": share(0.974, 500),
            "latency_ms": original["latency_ms"],
            "size_mb": original["size_mb"],
        },
    }
    chosen = {
        "recipe": CHOSEN,
        "accuracy": share(0.968, 2500),
        "latency_ms": reading(0.594, "ms", 0.02, 820),
        "latency_p90_ms": reading(0.661, "ms", 0.04, 820),
        "size_mb": {"value": 0.0842, "unit": "MB", "origin": "measured"},
        "memory_mb": reading(44.0, "MB", 0.5, 5),
        "energy_j": reading(0.0063, "J", 0.0007, 820, "modelled"),
        "operations": {"value": 11_100_000, "unit": "count", "origin": "measured"},
    }
    return {
        "verdict": "PASS",
        "recipe": CHOSEN,
        "model": "zoo:resnet | train(epochs=5)",
        "task": "mnist5k",
        "sentence": "7.1 times faster, 13 times smaller, certified at 95% to be at most 1 point less accurate.",
        "promise": ["accuracy >= base - 0.01", "accuracy[class=*] >= base - 0.05"],
        "confidence": 0.95,
        "objective": "latency_ms",
        "limits": ["size_mb <= 1"],
        "base": original,
        "chosen": chosen,
        "ratios": {
            "latency_ms": reading(7.09, "x", 0.28, 40),
            "latency_p90_ms": reading(6.97, "x", 0.5, 40),
            "size_mb": {"value": 13.34, "low": None, "high": None, "unit": "x"},
            "memory_mb": reading(1.39, "x", 0.03, 5),
            "energy_j": reading(7.0, "x", 0.9, 40),
            "operations": {"value": 3.72, "unit": "x"},
        },
        "candidates": [start, *(candidate(random_, row) for row in RECIPES)],
        "promises": promises(random_),
        "flips": {
            "right_to_wrong": 17,
            "wrong_to_right": 9,
            "examples": [
                {
                    "id": f"mnist5k/{random_.randint(2500, 4999)}",
                    "target": str(d := random_.randint(0, 9)),
                    "base": str(d),
                    "trimmed": str((d + random_.randint(1, 8)) % 10),
                }
                for _ in range(26)
            ],
        },
        "empty_cells": [
            {
                "what": "energy, metered",
                "reason": "this machine has no readable power meter, so energy is modelled from its watts",
            },
            {
                "what": "quantize(weights=4) @ torch",
                "reason": "quantize takes 'onnx' but the step before gives 'torch'",
            },
        ],
        "conditions": CONDITIONS,
        "times": {"total_s": 238.2, "training_s": 121.0, "measuring_s": 103.6, "other_s": 13.6},
        "run": "runs/x",
        "bundle": "runs/x/bundle",
    }


HOSTILE = "<script>alert('x')</script>\"'&\x1b[31m\u202e\ud800 [bold]]]>"


def hostile(value: Any) -> Any:
    """Put hostile text in place of every text of a document, and beside every key."""
    if isinstance(value, dict):
        return {**{key: hostile(item) for key, item in value.items()}, HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def many() -> dict[str, Any]:
    random_ = random.Random(1)
    rows = [
        (
            f"prune(ratio={share_of_time:.2f}) | distill | onnx | quantize @ onnxruntime(threads=1)",
            random_.gammavariate(1, 0.01),
            share_of_time,
            0.3,
            random_.choice(["dominated", "dominated", "frontier", "dropped"]),
            None,
        )
        for share_of_time in (random_.uniform(0.05, 1) for _ in range(60))
    ]
    document = result()
    document["candidates"] = [
        document["candidates"][0],
        document["candidates"][7],
        *(candidate(random_, row) for row in rows),
    ]
    return document


def infeasible() -> dict[str, Any]:
    document = result() | {
        "verdict": "INFEASIBLE",
        "chosen": {},
        "recipe": None,
        "ratios": {},
        "promises": [],
        "flips": None,
        "bundle": None,
    }
    document["sentence"] = "No candidate keeps size_mb <= 0.001; the smallest found is 0.0157 MB."
    return document


def undecided() -> dict[str, Any]:
    document = result() | {
        "verdict": "UNDECIDED",
        "sentence": "On these 2,500 examples the promise for class 8 can be neither kept nor broken.",
    }
    document["promises"] = [
        *document["promises"][:9],
        promise_row("accuracy[class=*] >= base - 0.05", "class=8", (-0.02, -0.061, 0.012), "UNDECIDED", 240),
        promise_row("accuracy[class=*] >= base - 0.05", "class=9", (-0.08, -0.12, -0.055), "FAIL", 240),
    ]
    return document


def missing() -> dict[str, Any]:
    document = result()
    for row in document["candidates"]:
        row["figures"]["latency_ms"] = {"value": None, "low": None, "high": None, "unit": "ms"}
        row["figures"]["accuracy"] = None
    document["chosen"] = {"recipe": CHOSEN, "accuracy": None, "latency_ms": {"value": float("nan"), "unit": "ms"}}
    document["promises"] = [dict.fromkeys(document["promises"][0]) | {"promise": "agreement >= 0.99"}]
    return document | {"conditions": None, "times": None, "flips": {}, "empty_cells": None}


def long() -> dict[str, Any]:
    document = result()
    chain = (
        " | ".join(f"prune(ratio={index / 40}, scope='a_very_long_scope_name_{'x' * 30}')" for index in range(12))
        + " @ torch"
    )
    document["candidates"][7]["recipe"] = document["recipe"] = document["chosen"]["recipe"] = chain
    document["candidates"][3]["recipe"] = "a" * 400
    return document


def as_the_search_writes() -> dict[str, Any]:
    """No base among the candidates, a predicted loss, slices named in the promise, an absolute promise."""
    document = result() | {"base_runtime": "torch(threads=1)", "interrupted": True}
    document["candidates"] = document["candidates"][1:]
    document["candidates"][2]["status"] = "passed"
    for row in document["candidates"]:
        if row["predicted"]:
            del row["predicted"]["accuracy"]
            row["predicted"]["quality_loss"] = {"value": 0.004, "low": 0.001, "high": 0.007, "unit": "share"}
    for row in document["promises"][1:]:
        row["promise"] = f"accuracy[{row['slice']}] >= base - 0.05"
        row["margin"] = -0.05
    absolute = {"promise": "agreement >= 0.99", "slice": "", "verdict": "PASS", "base": None, "trimmed": 0.9936}
    absolute |= {"difference": None, "low": 0.9903, "high": 0.996, "margin": 0.99, "unit": "share", "n": 2500}
    document["promises"].append(absolute)
    return document


def factor() -> dict[str, Any]:
    """A promise with a factor, kept though the trimmed model is a little worse."""
    kept = {"promise": "log_loss <= base * 1.02", "slice": "", "verdict": "PASS", "base": 0.5, "trimmed": 0.505}
    kept |= {"difference": -0.005, "low": -0.009, "high": -0.001, "margin": 0.0, "unit": "nats", "n": 2500}
    return result() | {"promise": ["log_loss <= base * 1.02"], "promises": [kept]}


def edges() -> dict[str, dict[str, Any]]:
    """Documents that a page must survive."""
    one = result()
    return {
        "usual": result(),
        "empty": {},
        "base": result()
        | {"verdict": "BASE", "chosen": {}, "recipe": None, "ratios": {}, "sentence": "Nothing beat the base."},
        "one candidate": result() | {"candidates": one["candidates"][:1], "promises": one["promises"][:1]},
        "infeasible": infeasible(),
        "undecided": undecided(),
        "many": many(),
        "long": long(),
        "missing": missing(),
        "wrong kinds": dict.fromkeys(result(), 7)
        | {"candidates": [None, 3, {"figures": [1], "predicted": "x"}], "promises": [None], "base": []},
        "factor": factor(),
        "search": as_the_search_writes(),
        "hostile": hostile(result()),
    }
