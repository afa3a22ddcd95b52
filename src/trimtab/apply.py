"""The verb `apply`: opens models and runs passes, each result kept in the store under a key of all it depends on.

key_0 = H(source, its fingerprint, the task's inputs, their preparation and its training data); key_i = H(key_{i-1},
pass, arguments, version, libraries, and a fingerprint of each thing in the pass's `uses`). Recipes that share a prefix
share its work, and a killed run goes on.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab import machines
from trimtab.errors import CorruptFile, DataError, Refused, UsageError
from trimtab.passes import Context, Pass, Statistics, quiet
from trimtab.recipe import Recipe, available, bind, check_formats, split_model
from trimtab.run.lengths import check_lengths
from trimtab.run.program import drive
from trimtab.runtimes import Runtime
from trimtab.sources import Source
from trimtab.values.codehash import code_hash, described, files_behind
from trimtab.values.machine import Machine
from trimtab.values.model import MODEL_FILE, Model, Part
from trimtab.values.notation import plain_fields
from trimtab.values.registry import registry
from trimtab.values.store import MANIFEST, Store, copy_folder, file_hash, files_of, make_folder, writing
from trimtab.values.task import Split, Task, TaskView
from trimtab.values.trust import check_code, check_links

LIBRARIES = (
    "trimtab", "numpy", "torch", "torch-pruning", "transformers", "tokenizers", "keras", "onnx", "onnxruntime",
    "onnxscript", "openvino", "nncf",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A model in the store, the key of all it depends on, and what making it took this time."""

    model: Model
    key: str
    folder: Path
    seconds: float = 0.0
    """Wall time spent in this process; 0 where everything came from the store."""
    trained_seconds: float = 0.0
    """The part of `seconds` spent in passes that fit weights."""
    runtime: Runtime | None = None
    """The runtime that the model's text names, if it does."""


@dataclass
class Workshop:
    """Everything that making models needs besides the recipe."""

    task: Task
    store: Store
    machine: Machine
    seed: int = 0
    threads: int = 1
    deadline: float | None = None
    """A `time.monotonic()` past which passes stop."""
    patience: float | None = None
    """A `time.monotonic()` past which a recovery that has long to go is given up."""
    trust: bool = False
    """Whether model folders may run code that only they name."""
    progress: Callable[[str, float], None] = field(default=quiet)
    _fingerprints: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _sizes: dict[str, int | None] = field(default_factory=dict, init=False, repr=False)
    """What `Source.sized_by` said of each reference."""

    @cached_property
    def view(self) -> TaskView:
        """The task without its test split."""
        return TaskView(self.task)

    def fingerprint(self, split: Split) -> str:
        """Return the split's fingerprint, computed once: keys are made of it all the time."""
        if split not in self._fingerprints:
            self._fingerprints[split] = self.task.fingerprint(split)
        return self._fingerprints[split]

    def open(self, text: str) -> Made:
        """Open a model: `SOURCE:REF`, the same with a recipe behind it, or the folder of a bundle or model."""
        folder = Path(text)
        if (folder / MODEL_FILE).is_file():
            return self._open_folder(folder)
        ref, recipe = split_model(text)
        bound = bind(recipe)
        made = self._open_source(ref)
        check_formats(bound, made.model.format)
        first = list(itertools.takewhile(lambda step: step.stage != "fit", bound.passes))
        made = self.apply(made, first)
        self._check_lengths(made.model)
        return replace(self.apply(made, bound.passes[len(first) :]), runtime=bound.runtime)

    def apply(self, made: Made, passes: Sequence[Pass], base: Made | None = None) -> Made:
        """Run the passes one after the other, taking from the store what is there.

        Raises:
            Refused: a pass cannot take the model; the message names the pass.
            TimeoutError: the deadline passed.
        """
        for step in passes:
            made = self._step(made, step, base)
        return made

    def chain(self, made: Made, passes: Sequence[Pass], base: Made | None = None) -> Iterator[str]:
        """Yield the key of the result of each pass in turn, without making any."""
        key = made.key
        for step in passes:
            key = self._key(key, step, base)
            yield key

    def peek(self, made: Made, passes: Sequence[Pass], base: Made | None = None) -> int:
        """Return how many of the passes are already in the store."""
        keys = self.chain(made, passes, base)
        return sum(1 for _ in itertools.takewhile(self.store.get, keys))

    def keys(self, text: str) -> list[str]:
        """Return the keys of a model that `open` would give, the source's first and its own last, without making it."""
        folder = Path(text)
        if (folder / MODEL_FILE).is_file():
            return [self._open_folder(folder).key]
        ref, recipe = split_model(text)
        keys = [self._source(ref)[2]]
        for step in bind(recipe).passes:
            keys.append(self._key(keys[-1], step, None))
        return keys

    def _source(self, ref: str) -> tuple[Source, str, str]:
        """Return the source, what it is to open, and the key of the result."""
        kind, colon, rest = ref.partition(":")
        if not colon:
            known = ", ".join(f"{name}:..." for name in registry("sources").names())
            raise DataError(f"cannot open model {ref!r}: it is no model folder, and names no source ({known})")
        source: Source = registry("sources").take(kind)()
        if ref not in self._sizes:
            self._sizes[ref] = source.sized_by(rest, self.view)
        size = self._sizes[ref]
        sized = [] if size is None else [size]
        key = digest("source", kind, rest, source.fingerprint(rest), self._inputs(), versions(LIBRARIES), *sized)
        return source, rest, key

    def _open_source(self, ref: str) -> Made:
        source, rest, key = self._source(ref)

        def build(scratch: Path) -> None:
            model = source.open(rest, scratch, self.view)
            replace(model, lineage=(ref,)).save(scratch)

        made = self._made(key, build)
        check_answers(made.model, self.task)
        return made

    def _check_lengths(self, model: Model) -> None:
        """Raise DataError where the model fails on the task's longest inputs, before it is trained or measured."""
        if model.format in SESSIONS:
            session = cache(lambda: importlib.import_module(SESSIONS[model.format]).session(model))
            check_lengths(lambda batch: drive(model, session(), batch.inputs), self.view, model.format == "torch")

    def _open_folder(self, folder: Path) -> Made:
        check_links(folder)
        model = Model.open(folder.resolve())
        check_code(model, folder, self.trust)
        check_frontend(model, self.task, folder)
        hashes = [(name, folder_hash(part.path)) for name, part in model.parts.items()]
        return Made(model, digest("folder", hashes, (folder / MODEL_FILE).read_text()), folder.resolve())

    def _step(self, made: Made, step: Pass, base: Made | None) -> Made:
        key = self._key(made.key, step, base)
        if self.store.get(key) is None:
            reason = step.refuses(made.model, self.machine)
            if reason:
                raise Refused(f"{step.name()}: {reason}")

        def build(scratch: Path) -> None:
            context = Context(
                self.view,
                scratch,
                self.machine,
                base=base.model if base else None,
                seed=self.seed,
                threads=self.threads,
                deadline=self.deadline,
                patience=self.patience,
                keep=self.store.keep(key),
                statistics=self.statistics(made, step.wants()),
                make=lambda text: self.apply(made, bind(text).passes, base or made).model,
                progress=self.progress,
            )
            model = as_often(made.model, gather(step.apply(made.model, context), scratch))
            replace(model, lineage=(*made.model.lineage, str(step))).save(scratch)

        result = self._made(key, build)
        self.store.drop_kept(key)
        trained = result.seconds if step.stage in TRAINING else 0.0
        return replace(result, seconds=made.seconds + result.seconds, trained_seconds=made.trained_seconds + trained)

    def statistics(self, made: Made, needs: frozenset[str]) -> Statistics:
        """Return statistics of a model; the first pass that asks gathers in one run what all of the format need.

        They are kept in the store under the model, the training data, the seed and the libraries.
        """
        collector = COLLECTORS.get(made.model.format)
        if not needs or collector is None:
            return {}
        kinds, _ = available("passes")
        takers = (kind for kind in kinds.values() if made.model.format in kind.formats)  # type: ignore[attr-defined]
        wanted = needs.union(*(kind.needs for kind in takers))  # type: ignore[attr-defined]
        module = importlib.import_module(collector)
        uses = {use: self._use(use, None) for use in ("seed", "train")}
        asked = sorted(wanted & set(module.KINDS))
        about = {kind: [uses, *(machines.here().kind if kind in TIMED else ())] for kind in asked}
        keys = {kind: digest("statistics", made.key, kind, about[kind], versions(LIBRARIES)) for kind in asked}
        missing = [kind for kind in asked if self.store.get(keys[kind]) is None]
        if missing:
            self.progress("calibrating", 0.0)
            found = module.collect(made.model, self.view, missing, self.seed, self._check_time)
            for kind in missing:
                self.store.make(keys[kind], lambda folder, kind=kind: _keep(folder, found.get(kind, {})))  # type: ignore[misc]
        return {kind: _arrays(self.store.make(key, _lost) / ARRAYS) for kind, key in keys.items()}

    def pace(self, model: Model) -> float:
        """Return how many times longer a step of training the model takes here than its operations tell."""
        if model.format not in PACERS:
            return 1.0
        timed: float = importlib.import_module(PACERS[model.format]).measured(
            model, self.view, self.machine, self.seed, self.threads
        )
        return timed

    def _check_time(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeoutError("the time given to this step is over")

    def _made(self, key: str, build: Callable[[Path], None]) -> Made:
        start = time.monotonic()
        cached = self.store.get(key)
        folder = cached or self.store.make(key, build)
        return Made(Model.open(folder), key, folder, 0.0 if cached else time.monotonic() - start)

    def _key(self, parent: str, step: Pass, base: Made | None) -> str:
        uses = {use: self._use(use, base) for use in sorted(step.uses)}
        inside = bind(step.inner()).passes if step.inner() else ()
        inner = [self._key("", each, base) for each in inside]
        about = [step.name(), asdict(step), step.version, uses, versions(LIBRARIES), *([inner] if inner else [])]
        return digest("pass", parent, *about)

    def _use(self, use: str, base: Made | None) -> Any:
        match use:
            case "train" | "validation":
                return [self.fingerprint(use), self.asked, self.threads]
            case "base":
                return base.key if base else None
            case "seed":
                return self.seed
            case _:
                return [self.machine.name, *self.machine.kind]  # clock and memory are read anew each time

    @cached_property
    def asked(self) -> str:
        """What the task asks besides its examples, as JSON: its loss, what it says of itself, code and arguments."""
        task = self.task
        return json.dumps([task.objective, task.class_weights, dict(task.describe()), self.task_code], sort_keys=True)

    @cached_property
    def task_code(self) -> str:
        """Hash of the code and arguments of a task of the user's own: how it scores; empty for ours, which say so."""
        kind = type(self.task)
        if kind.__module__.startswith("trimtab."):
            return ""
        return digest(class_hash(kind), plain_fields(self.task) if is_dataclass(self.task) else {})

    def _inputs(self) -> Any:
        example = self.view.split("train")[0]
        shapes = {name: [str(array.dtype), list(array.shape)] for name, array in example.inputs.items()}
        return [shapes, list(self.task.labels), dict(self.task.frontend()), self.fingerprint("train")]


TRAINING = frozenset({"fit", "structure", "recover"})
"""Stages whose passes fit weights or need passes that do: what `--no-train` leaves out."""

PACERS: Mapping[str, str] = {"torch": "trimtab.fit.pace"}
"""Format -> module whose `measured(model, view, machine, seed, threads)` times steps of training."""
COLLECTORS: Mapping[str, str] = {"torch": "trimtab.fit.statistics", "onnx": "trimtab.run.onnx_statistics"}
"""Format -> module whose `collect(model, view, kinds, seed, check_time)` gathers the `KINDS` of statistics it names."""
TIMED = ("time", "milliseconds")
"""Statistics that belong to the machine that this runs on."""
SESSIONS: Mapping[str, str] = {
    "torch": "trimtab.fit.program",
    "onnx": "trimtab.passes._graph",
    "openvino": "trimtab.runtimes.openvino",
}
"""Format -> module whose `session(model)` loads a model in this process."""
ARRAYS = "arrays.npz"
SLASH = "|"
"""Stands for "/" in the names of arrays on disk."""


def _keep(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    named: dict[str, Any] = {name.replace("/", SLASH): value for name, value in arrays.items()}
    np.savez(folder / ARRAYS, **named)


def _lost(folder: Path) -> None:
    raise CorruptFile("statistics that were just kept are gone from the store; run the same command again")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name.replace(SLASH, "/"): file[name] for name in file.files}


def check_frontend(model: Model, task: Task, folder: Path) -> None:
    """Raise DataError where a model prepares inputs or names classes otherwise than the task does."""
    wanted = json.loads(json.dumps(dict(task.frontend())))
    for name in sorted({*wanted, *model.frontend}):
        if model.frontend.get(name) != wanted.get(name):
            what = {"labels": "names its classes", "steps": "prepares its inputs"}.get(name, f"has {name}")
            raise DataError(
                f"the model in {folder} {what} otherwise than {task.name} does (it was made on other data): "
                "use the task that it was made for"
            )


def check_answers(model: Model, task: Task) -> None:
    """Raise DataError where a classifier has fewer classes than its task."""
    specs = {spec.name: spec for part in model.parts.values() for spec in part.signature.outputs}
    found = specs.get("output")
    if task.objective != "cross_entropy" or found is None or not task.labels:
        return
    classes = found.shape[-1]
    if len(found.shape) == 2 and isinstance(classes, int) and classes < len(task.labels):
        raise DataError(
            f"the model answers with {classes} numbers, and {task.name} has {len(task.labels)} classes "
            f"({', '.join(task.labels[:5])}, ...): give it one output a class"
        )


def as_often(before: Model, after: Model) -> Model:
    """Return `after` with its parts called as often as those of `before`, where the program is the same."""
    if after.program != before.program:
        return after
    calls = {name: part.facts.calls for name, part in before.parts.items()}
    parts = {name: replace(p, facts=replace(p.facts, calls=calls.get(name, 1))) for name, p in after.parts.items()}
    return after.map_parts(parts)


def gather(model: Model, folder: Path) -> Model:
    """Copy parts that lie outside the folder into it, so that the folder is the whole model."""
    inside = {name: _gathered(name, part, folder) for name, part in model.parts.items()}
    return replace(model, parts=inside)


def _gathered(name: str, part: Part, folder: Path) -> Part:
    if part.path.is_relative_to(folder):
        return part
    copy_folder(part.path, folder / name)
    return replace(part, path=folder / name)


def digest(*things: Any) -> str:
    """Return the sha256 of things that JSON can write, in hexadecimal."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(thing: Any) -> Any:
    if isinstance(thing, Recipe):
        return str(thing)
    raise TypeError(f"{type(thing).__name__} cannot be part of a key")


def folder_hash(folder: Path) -> str:
    """Return one hash over the names and contents of a folder's files: the identity of an artefact."""
    return digest([(path.relative_to(folder).as_posix(), file_hash(path)) for path in files_of(folder)])


def class_hash(kind: type) -> str:
    """Return a hash of the file that defines a class, with all of the user's that it imports.

    Of a class that no file has, as in a notebook, it is a hash of its code as it is in memory.
    """
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        file = None
    if file is None or not Path(file).is_file():
        return digest(described(kind))
    return code_hash(files_behind(Path(file)))


@cache
def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each distribution; those that are absent are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def apply_recipe(text: str, recipe: str, workshop: Workshop, out: Path) -> Made:
    """Run a recipe on a model and copy the result to `out`, which must not exist or be empty.

    `model.json` comes last: a folder without it is half copied.

    Raises:
        UsageError: `out` holds something already.
        OutputError: `out` cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is {'not empty' if out.is_dir() else 'a file'}; choose another --out, or remove it")
    bound = bind(recipe)
    base = workshop.open(text)
    check_formats(bound, base.model.format)
    make_folder(out)
    made = workshop.apply(base, bound.passes, base)
    try:
        with writing(out):
            copy_folder(made.folder, out, leave_out={MANIFEST, MODEL_FILE})
            shutil.copyfile(made.folder / MODEL_FILE, out / MODEL_FILE)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return replace(made, model=Model.open(out.resolve()), folder=out.resolve())


def set_quiet_threads() -> None:
    """Make waiting OpenMP threads sleep: spinning ones slow a shared machine twentyfold. Call before heavy imports."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
