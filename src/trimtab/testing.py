"""Conformance: does a source, task, pass, runtime or meter keep its contract? For our registries and third parties.

    from trimtab.testing import check_pass
    check_pass(MyPass(), model, context)

Each check runs the real thing and raises AssertionError with the sentence of the contract that is broken.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.apply import folder_hash
from trimtab.errors import SealedSplit, TrimtabError
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.passes import STAGES, Context, Pass
from trimtab.run.program import drive
from trimtab.runtimes import Runtime
from trimtab.sources import Source
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single
from trimtab.values.notation import Step
from trimtab.values.task import SPLITS, Batch, Metric, Task, TaskView

USES = {"train", "validation", "base", "seed", "machine"}
OTHER_MACHINE = Machine("another", 1, ("avx2",))
"""What a pass may not look at unless it says so."""


def must(kept: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless it holds."""
    if not kept:
        raise AssertionError(sentence)


def check_documented(thing: type[Any]) -> None:
    """A thing and its module each say in a sentence what they are for."""
    must(bool((thing.__doc__ or "").strip()), f"{thing.__name__} has a docstring")
    must(bool((sys.modules[thing.__module__].__doc__ or "").strip()), f"{thing.__module__} has a docstring")


def check_notation(thing: Any) -> None:
    """The text of a pass or runtime builds an equal one."""
    must(Step.parse(str(thing)).build(type(thing)) == thing, f"{thing} is text that builds the same again")


def hashes(model: Model) -> dict[str, str]:
    """Return the hash of each part's files."""
    return {name: folder_hash(part.path) for name, part in model.parts.items()}


def check_source(source: Source, ref: str, scratch: Path, task: Task) -> Model:
    """The model lies in the scratch folder, opens to the same bytes again, is read as written; test stays sealed."""
    check_documented(type(source))
    first, second = source.fingerprint(ref), source.fingerprint(ref)
    must(first == second and bool(first), "a fingerprint is the same at every call, and not empty")
    model = source.open(ref, scratch, TaskView(task))
    for name, part in model.parts.items():
        must(part.path.is_relative_to(scratch), f"part {name} lies in the scratch folder")
        must(bool(part.signature.inputs) and bool(part.signature.outputs), f"part {name} has inputs and outputs")
        must(part.facts.format == part.format, f"part {name} has facts of its format")
        _check_facts(part.facts, f"part {name}")
    must(dict(model.frontend) == dict(task.frontend()), "the frontend is the task's")
    check_kept(model, scratch)
    with TemporaryDirectory() as folder:
        twin = source.open(ref, Path(folder), TaskView(task))
        must(hashes(model) == hashes(twin), "one fingerprint opens to the same bytes")
    with TemporaryDirectory() as folder:
        _check_refusal(source, Path(folder), task)
    return model


def check_kept(model: Model, folder: Path) -> None:
    """A model is read as it was written."""
    model.save(folder)
    again = Model.open(folder)
    must(dict(again.parts) == dict(model.parts) and again.program == model.program, "a model is read as it was written")


def _check_refusal(source: Source, scratch: Path, task: Task) -> None:
    try:
        source.open("no-such-thing", scratch, TaskView(task))
    except TrimtabError:
        return
    raise AssertionError("a reference to nothing is refused with an error of trimtab.errors")


def _check_facts(facts: Facts, whose: str) -> None:
    must(facts.parameters >= 0 and facts.operations >= 0, f"{whose}: counts are not negative")
    must(0 < facts.weight_bits <= 64 and 0 < facts.activation_bits <= 64, f"{whose}: bits are 1 to 64")
    must(0 <= facts.quality_loss <= 1 and 0 <= facts.cut <= 1, f"{whose}: the loss and the cut are shares of 1")


def check_task(task: Task) -> None:
    """Splits are disjoint and steady, batches line up, one seed augments in one way, and test is sealed."""
    check_documented(type(task))
    ids = {name: [example.id for example in task.split(name)] for name in SPLITS}
    must(all(ids.values()), "no split is empty")
    together = [one for name in SPLITS for one in ids[name]]
    must(len(set(together)) == len(together), "no identifier stands twice, in one split or in two")
    must(all(task.fingerprint(name) == task.fingerprint(name) for name in SPLITS), "fingerprints are steady")
    must(len({task.fingerprint(name) for name in SPLITS}) == len(SPLITS), "each split has a fingerprint of its own")
    json.dumps([dict(task.frontend()), dict(task.describe())], allow_nan=False)
    names = [metric.name for metric in task.metrics]
    must(bool(names) and len(set(names)) == len(names), "there are metrics, each with a name of its own")
    examples = [task.split("train")[index] for index in range(min(4, len(ids["train"])))]
    batch = task.collate(examples)
    must(len(batch) == len(examples), "collate keeps every example")
    must(all(len(array) == len(examples) for array in batch.inputs.values()), "the batch axis is in front")
    _check_augmentation(task, batch)
    try:
        TaskView(task).split("test")
    except SealedSplit:
        return
    raise AssertionError("the view that passes hold raises SealedSplit on test")


def _check_augmentation(task: Task, batch: Batch) -> None:
    before = {name: array.copy() for name, array in batch.inputs.items()}
    changed, same = task.augment(batch, 0), task.augment(batch, 0)
    must(list(changed.inputs) == list(before) and len(changed) == len(batch), "augmenting keeps inputs and examples")
    for name, array in before.items():
        must(np.array_equal(changed.inputs[name], same.inputs[name]), "one seed augments in one way")
        must(np.array_equal(batch.inputs[name], array), "augmenting gives a copy")
        must(changed.inputs[name].dtype == array.dtype, "augmenting keeps the type of an input")


def check_scores(task: Task, outputs: Mapping[str, Any], batch: Batch) -> NDArray[np.float64]:
    """Score rows are one an example; a metric reduces them to one number a weighting, and a weight means repetition."""
    rows = task.score(outputs, batch)
    must(rows.shape[0] == len(batch) and rows.ndim == 2, "score gives float[n, k], one row an example")
    for metric in task.metrics:
        _check_metric(metric, np.hstack([rows, rows]) if metric.paired else rows)
    return rows


def _check_metric(metric: Metric, rows: NDArray[np.float64]) -> None:
    must(metric.better in ("higher", "lower") and bool(metric.unit), f"{metric.name} has a direction and a unit")
    weights = np.random.default_rng(0).integers(1, 4, (3, len(rows)))
    reduced = metric.reduce(rows, weights.astype(np.float64))
    must(reduced.shape == (3,), f"{metric.name} reduces weights[R, n] to float[R]")
    repeated = [metric.reduce(rows.repeat(w, axis=0), np.ones((1, int(w.sum()))))[0] for w in weights]
    same = np.allclose(reduced, repeated, equal_nan=True)
    must(same, f"{metric.name} takes a weight of 2 as an example that comes twice")
    values = metric.values(rows)
    if values is not None and np.isfinite(values).all():
        mean = math.isclose(float(np.average(values, weights=weights[0])), float(reduced[0]), abs_tol=1e-9)
        must(mean, f"{metric.name} is the mean of its values")
    if metric.binary:
        must(values is not None and set(np.unique(values)) <= {0.0, 1.0}, f"{metric.name} has values of 0 and 1")


def check_ranks(task: Task, right: Mapping[str, Any], wrong: Mapping[str, Any], batch: Batch) -> None:
    """No metric prefers wrong answers to right ones: its direction is what it says."""
    scored = [task.score(outputs, batch) for outputs in (right, wrong)]
    for metric in task.metrics:
        pair = [np.hstack([rows, scored[0]]) if metric.paired else rows for rows in scored]
        good, bad = (float(metric.reduce(rows, np.ones((1, len(rows))))[0]) for rows in pair)
        kept = not (good < bad if metric.better == "higher" else good > bad)
        must(kept, f"{metric.name}, where {metric.better} is better, does not prefer wrong answers")


def check_pass(step: Pass, model: Model, context: Context) -> Model:
    """The result lies in the scratch folder, has the format promised, and leaves its input alone; time is kept."""
    check_pass_class(type(step))
    check_notation(step)
    given = type(step).formats[model.format]
    _check_choices(step, model, context.machine)
    must(step.predict(model.facts, context.machine).format == given, "predict gives facts of the format apply gives")
    must(step.refuses(model, context.machine) is None, f"{step} takes the model it is checked with")
    _check_deadline(step, model, context)
    before, shares = hashes(model), list[float]()
    result = step.apply(model, replace(context, progress=lambda what, share: shares.append(share)))
    must(result.format == given, f"{step.name()} gives the format {given!r} that it promises")
    must(all(0 <= share <= 1 for share in shares), "progress is a share from 0 to 1")
    must(before == hashes(model), "a pass leaves its input alone")
    must(dict(result.frontend) == dict(model.frontend), "a pass keeps the frontend")
    for name, part in result.parts.items():
        must(part.path.is_relative_to(context.scratch), f"part {name} lies in the scratch folder")
        _check_facts(part.facts, f"part {name}")
    check_kept(result, context.scratch)
    return result


def check_pass_class(kind: type[Pass]) -> None:
    """A pass is a documented frozen dataclass that says its formats, stage, version and what it uses."""
    check_documented(kind)
    must(is_dataclass(kind) and kind.__dataclass_params__.frozen, "a pass is a frozen dataclass")  # type: ignore[attr-defined]
    must(bool(kind.formats) and kind.stage in STAGES and kind.version >= 1, "a pass has formats, a stage, a version")
    must(set(kind.uses) <= USES, f"uses are among {sorted(USES)}")


def _check_choices(step: Pass, model: Model, machine: Machine) -> None:
    for choice in (step, *type(step).choices(model.facts, machine)):
        check_notation(choice)
        _check_facts(choice.predict(model.facts, machine), f"what {choice} predicts")


def _check_deadline(step: Pass, model: Model, context: Context) -> None:
    with TemporaryDirectory() as folder:
        try:
            step.apply(model, replace(context, scratch=Path(folder), keep=None, deadline=0.0))
        except TimeoutError:
            return
    raise AssertionError(f"{step.name()} raises TimeoutError past the deadline: it calls context.check_time()")


def check_repeats(step: Pass, model: Model, context: Context, first: Model) -> None:
    """Applied again, a pass gives the bytes of `first`, whatever changes that it does not say it uses."""
    others: dict[str, Any] = {"base": None, "seed": context.seed + 1, "machine": OTHER_MACHINE}
    changed = {name: value for name, value in others.items() if name not in step.uses}
    with TemporaryDirectory() as folder:
        again = step.apply(model, replace(context, scratch=Path(folder), keep=None, **changed))
        same = hashes(first) == hashes(again)
    must(same, f"{step} repeats to the byte, with {', '.join(changed) or 'nothing'} changed, which it does not use")


def check_runtime(
    runtime: Runtime, model: Model, batch: Batch, machine: Machine, tolerance: float = 1e-3
) -> dict[str, Any]:
    """A runtime answers every example, alone as in company, leaves arrays alone, and predicts a latency.

    `tolerance` is the difference allowed between alone and in company, as a share of the greatest output.
    """
    check_documented(type(runtime))
    check_notation(runtime)
    must(bool(runtime.formats) and runtime.threads >= 1, "a runtime has formats and at least one thread")
    for choice in (runtime, *runtime.choices(model.facts, machine)):
        check_notation(choice)
        predicted = choice.predict(model.facts, machine).get("latency_ms", 0.0)
        must(predicted >= 0 and math.isfinite(predicted), "a predicted latency is finite")
    reason = runtime.refuses(model, machine)
    must(reason is None, f"{runtime} takes the model it is checked with: {reason}")
    session = runtime.load(model, machine)
    given = {name: array.copy() for name, array in batch.inputs.items()}
    outputs = drive(model, session, batch.inputs)
    kept = {name: array.copy() for name, array in outputs.items()}
    alone = drive(model, session, {name: array[-1:] for name, array in batch.inputs.items()})
    for name, array in given.items():
        must(np.array_equal(batch.inputs[name], array), f"input {name} is left as it was")
    for name, array in kept.items():
        must(len(array) == len(batch), f"output {name} has every example")
        must(np.array_equal(outputs[name], array), f"output {name} is not changed by a later call")
        _check_alone(name, alone[name], array[-1:], tolerance)
    _check_signature(model, outputs)
    return outputs


def _check_alone(name: str, alone: NDArray[Any], company: NDArray[Any], tolerance: float) -> None:
    if alone.shape == company.shape:  # a decoder's rows are as long as the longest of them
        near = np.allclose(alone, company, rtol=0, atol=tolerance * max(1.0, float(np.abs(company).max(initial=0))))
        must(near, f"output {name} of an example is the same alone as in company")


def _check_signature(model: Model, outputs: Mapping[str, NDArray[Any]]) -> None:
    if isinstance(model.program, Single):
        for spec in model.main.signature.outputs:
            must(spec.name in outputs, f"output {spec.name} is there")
            must(str(outputs[spec.name].dtype) == spec.dtype, f"output {spec.name} is {spec.dtype}")


def check_meter(meter: Meter, session: Remote, probe: Probe) -> Reading:
    """A meter gives the figures it declares, in their units, finite, within their intervals, and as JSON."""
    check_documented(type(meter))
    reading = meter.read(session, probe)
    must(bool(reading.figures) or bool(reading.details), "a reading has figures, or says why it has none")
    if meter.figures and reading.figures:
        must([f.name for f in reading.figures] == list(meter.figures), "a reading has the figures that are declared")
    for figure in reading.figures:
        if meter.figures:
            must(figure.unit == meter.figures[figure.name].unit, f"{figure.name} has the unit that is declared")
        _check_figure(figure)
    if meter.repeats and reading.figures:
        must(reading.samples is not None and len(reading.samples) > 0, "a noisy meter keeps its samples")
    if reading.rows is not None:
        must(len(reading.rows) == len(probe.view.split(probe.split)), "rows are one an example of the split")
    json.dumps(dict(reading.details), allow_nan=False)
    return reading


def _check_figure(figure: Figure) -> None:
    must(math.isfinite(figure.value), f"{figure.name} is finite")
    must(figure.n is None or figure.n >= 1, f"{figure.name} comes from at least one reading")
    low, high = figure.low, figure.high
    must((-math.inf if low is None else low) <= figure.value, f"{figure.name} lies in its interval")
    must(figure.value <= (math.inf if high is None else high), f"{figure.name} lies in its interval")
    must(Figure.from_json(json.loads(json.dumps(figure.to_json(), allow_nan=False))) == figure, "a figure is JSON")
