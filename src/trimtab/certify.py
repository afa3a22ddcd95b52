"""The verb `verify`: does a bundle keep a promise against its original, on the sealed test split?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.apply import Workshop
from trimtab.errors import PromiseError
from trimtab.measure import Bench, choose_runtime
from trimtab.pack import check
from trimtab.recipe import bind_runtime
from trimtab.values.promise import Promise
from trimtab.verify import check_confidence, check_decidable, judge, overall, reopened

TRIED = 100
"""Validation examples that a bundle is tried on, before the test split is opened."""


def verify_bundle(
    folder: Path, against: str, promises: Sequence[str], confidence: float, workshop: Workshop
) -> dict[str, Any]:
    """Judge a bundle's promises (by default those it was made for) on the test split, and count the opening.

    Raises:
        CorruptFile: the bundle has changed.
        PromiseError: a promise that does not parse or fit or can never be proved, or none at all.
    """
    check_confidence(confidence)
    about = check(folder)
    texts = list(promises) or list(about.get("promise", []))
    if not texts:
        raise PromiseError(f"{folder} names no promise; give one with --promise")
    wanted = [Promise.parse(text) for text in texts]
    check_decidable(workshop.task, wanted, confidence)
    base = workshop.open(against)
    trimmed, runtime = workshop.open(str(folder / "model")), bind_runtime(about["runtime"])
    with Bench(workshop, base, choose_runtime(base, workshop), confidence) as bench:
        bench.draw(TRIED)
        bench.rows(trimmed, None, runtime, "validation")  # what cannot be scored at all must not open the test split
        openings = workshop.store.count_opening(workshop.fingerprint("test"), str(folder))
        bench.unseal()
        rows, _ = bench.rows(trimmed, None, runtime, "test")
        evidence = bench.evidence(rows, "test")
    judgements = judge(wanted, evidence, confidence)
    verdict = overall(judgements)
    return {
        "verdict": verdict,
        "sentence": f"{verdict} at {100 * confidence:g}%: {' and '.join(texts)}.{reopened(openings)}",
        "bundle": str(folder),
        "artefact": about["artefact"],
        "promises": [judgement.to_json() for judgement in judgements],
        "test_openings": openings,
    }
