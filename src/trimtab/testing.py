"""Conformance: does a source, task, pass, runtime or meter keep its contract? For our registries and third parties.

    from trimtab.testing import check_pass
    check_pass(MyPass, model, context)

Each check runs the real thing and raises AssertionError with the sentence of the contract that is broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.apply import folder_hash
from trimtab.errors import SealedSplit
from trimtab.meters import Meter, Probe, Remote
from trimtab.passes import STAGES, Context, Pass
from trimtab.run.program import drive
from trimtab.runtimes import Runtime
from trimtab.sources import Source
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.notation import Step
from trimtab.values.task import SPLITS, Batch, Task, TaskView

USES = {"train", "validation", "base", "seed", "machine"}


def must(kept: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless it holds."""
    if not kept:
        raise AssertionError(sentence)


def check_documented(thing: type[Any]) -> None:
    """A thing and its module each say in a sentence what they are for."""
    module = __import__(thing.__module__, fromlist=["__doc__"])
    must(bool((thing.__doc__ or "").strip()), f"{thing.__name__} has a docstring")
    must(bool((module.__doc__ or "").strip()), f"{thing.__module__} has a docstring")


def check_notation(thing: Any) -> None:
    """The text of a pass or runtime builds an equal one."""
    must(Step.parse(str(thing)).build(type(thing)) == thing, f"{thing} is text that builds the same again")


def check_source(source: Source, ref: str, scratch: Path, task: Task) -> Model:
    """The model lies within the scratch folder, survives being written and read, and sees no test data."""
    check_documented(type(source))
    first, second = source.fingerprint(ref), source.fingerprint(ref)
    must(first == second and bool(first), "a fingerprint is the same at every call, and not empty")
    model = source.open(ref, scratch, TaskView(task))
    for name, part in model.parts.items():
        must(part.path.is_relative_to(scratch), f"part {name} lies in the scratch folder")
        must(bool(part.signature.inputs) and bool(part.signature.outputs), f"part {name} has inputs and outputs")
        must(part.facts.parameters >= 0 and part.facts.format == part.format, f"part {name} has facts of its format")
    model.save(scratch)
    again = Model.open(scratch)
    must(dict(again.parts) == dict(model.parts) and again.program == model.program, "a model is read as it was written")
    return model


def check_task(task: Task) -> None:
    """Splits are disjoint and steady, batches and score rows line up, metrics reduce under weights, test is sealed."""
    check_documented(type(task))
    ids = {name: [example.id for example in task.split(name)] for name in SPLITS}
    must(all(ids.values()), "no split is empty")
    together = [one for name in SPLITS for one in ids[name]]
    must(len(set(together)) == len(together), "no identifier stands twice, in one split or in two")
    must(all(task.fingerprint(name) == task.fingerprint(name) for name in SPLITS), "fingerprints are steady")
    examples = [task.split("train")[index] for index in range(min(4, len(ids["train"])))]
    batch = task.collate(examples)
    must(len(batch) == len(examples), "collate keeps every example")
    must(all(len(array) == len(examples) for array in batch.inputs.values()), "the batch axis is in front")
    changed = task.augment(batch, 0)
    same = task.augment(batch, 0)
    for name, array in changed.inputs.items():
        must(np.array_equal(array, same.inputs[name]), "one seed augments in one way")
    try:
        TaskView(task).split("test")
    except SealedSplit:
        return
    raise AssertionError("the view that passes hold raises SealedSplit on test")


def check_scores(task: Task, outputs: Mapping[str, Any], batch: Batch) -> None:
    """Score rows are one an example, and every metric reduces them to one number for each weighting."""
    rows = task.score(outputs, batch)
    must(rows.shape[0] == len(batch) and rows.ndim == 2, "score gives float[n, k], one row an example")
    weights = np.ones((3, len(rows)))
    for metric in task.metrics:
        must(metric.better in ("higher", "lower") and bool(metric.unit), f"{metric.name} has a direction and a unit")
        given = np.hstack([rows, rows]) if metric.paired else rows
        must(metric.reduce(given, weights).shape == (3,), f"{metric.name} reduces weights[R, n] to float[R]")
        values = metric.values(given)
        if values is not None and np.isfinite(values).all():
            close = math.isclose(float(values.mean()), float(metric.reduce(given, weights)[0]), abs_tol=1e-9)
            must(close, f"{metric.name} is the mean of its values")


def check_pass(step: Pass, model: Model, context: Context) -> Model:
    """The result lies in the scratch folder, has the format promised, leaves its input alone, and repeats."""
    kind = type(step)
    check_documented(kind)
    check_notation(step)
    must(is_dataclass(kind) and kind.__dataclass_params__.frozen, "a pass is a frozen dataclass")  # type: ignore[attr-defined]
    must(bool(kind.formats) and kind.stage in STAGES and kind.version >= 1, "a pass has formats, a stage, a version")
    must(set(kind.uses) <= USES, f"uses are among {sorted(USES)}")
    for choice in kind.choices(model.facts, context.machine):
        check_notation(choice)
    given = kind.formats[model.format]
    must(
        step.predict(model.facts, context.machine).format == given, "predict gives facts of the format that apply gives"
    )
    before = [folder_hash(part.path) for part in model.parts.values()]
    result = step.apply(model, context)
    must(result.format == given, f"{step.name()} gives the format {given!r} that it promises")
    must(before == [folder_hash(part.path) for part in model.parts.values()], "a pass leaves its input alone")
    must(dict(result.frontend) == dict(model.frontend), "a pass keeps the frontend")
    result.save(context.scratch)
    return Model.open(context.scratch)


def check_repeats(step: Pass, model: Model, context: Context, scratch: Path) -> None:
    """The same pass on the same model with the same seed gives the same bytes."""
    first = {name: folder_hash(part.path) for name, part in step.apply(model, context).parts.items()}
    again = step.apply(model, replace(context, scratch=scratch))
    must(first == {name: folder_hash(part.path) for name, part in again.parts.items()}, f"{step} repeats to the byte")


def check_runtime(runtime: Runtime, model: Model, batch: Batch, machine: Machine) -> dict[str, Any]:
    """A runtime answers every output of the signature, with the batch axis in front, and predicts a latency."""
    check_documented(type(runtime))
    check_notation(runtime)
    must(bool(runtime.formats) and runtime.threads >= 1, "a runtime has formats and at least one thread")
    for choice in runtime.choices(model.facts, machine):
        check_notation(choice)
        predicted = choice.predict(model.facts, machine).get("latency_ms", 0.0)
        must(predicted >= 0 and math.isfinite(predicted), "a predicted latency is finite")
    reason = runtime.refuses(model, machine)
    must(reason is None, f"{runtime} takes the model it is checked with: {reason}")
    outputs = drive(model, runtime.load(model, machine), batch.inputs)
    for spec in model.main.signature.outputs:
        must(spec.name in outputs and len(outputs[spec.name]) == len(batch), f"output {spec.name} has every example")
    return outputs


def check_meter(meter: Meter, session: Remote, probe: Probe) -> None:
    """A meter gives the figures it declares, in their units, finite, ordered with their interval."""
    check_documented(type(meter))
    reading = meter.read(session, probe)
    must(bool(reading.figures) or bool(reading.details), "a reading has figures, or says why it has none")
    for figure in reading.figures:
        if meter.figures:
            must(figure.name in meter.figures, f"{figure.name} is declared in figures")
            must(figure.unit == meter.figures[figure.name].unit, f"{figure.name} has the unit that is declared")
        must(math.isfinite(figure.value), f"{figure.name} is finite")
        low, high = figure.low, figure.high
        must(low is None or high is None or low <= figure.value <= high, f"{figure.name} lies in its interval")
