"""Makes models side by side through Ray: `--workers 4` on this machine, `--workers ray://head:10001` on a cluster.

Only making is shared out: training, pruning, converting. Measuring stays on the machine that the promise is about,
alone and one model after the other: the search makes a batch, waits for it, then measures; no timing has company.

What travels are texts (the model, the task, the recipe) and folders of the store, by key. A worker that has other
versions of the libraries would make other keys, and says so; a model that a worker could not make is made here, so that
its failure is recorded as any other. Local files that the texts name must lie at the same place on every machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.apply import Made, Workshop
from trimtab.errors import TrimtabError, UsageError, one_line
from trimtab.recipe import bind
from trimtab.tasks import open_task
from trimtab.values.machine import Machine
from trimtab.values.registry import missing
from trimtab.values.store import MANIFEST, Store, files_of


@dataclass
class Crew:
    """Workers that fill the store ahead of the search."""

    ray: Any
    workshop: Workshop
    model: str
    task: str
    key: str
    """Of the base: a worker that would make another one is of no use."""
    size: int
    """How many models are made at once."""
    cpus: int
    """What each is said to need: its threads, but no more than the largest machine has, or it would never start."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """Key -> the folder's archive, kept by Ray for all workers."""
    notes: list[str] = field(default_factory=list)
    """Why a worker could not make what it was asked to."""

    def make(self, steps: Sequence[str], seconds: float) -> None:
        """Make the results of these chains of passes on the base, and take them into the store.

        Whatever fails, or is not ready after `seconds`, is left to be made here.
        """
        remote = self.ray.remote(num_cpus=self.cpus, max_retries=1)(make)
        jobs = {remote.remote(self._job(text, seconds), dict(self.base)): text for text in steps}
        ready, late = self.ray.wait(list(jobs), num_returns=len(jobs), timeout=seconds)
        for job in late:
            self.ray.cancel(job, force=True)
            self.notes.append(f"{jobs[job]}: not ready in time")
        for job in ready:
            try:
                archives, reason = self.ray.get(job)
            except self.ray.exceptions.RayError as error:
                archives, reason = {}, one_line(error)
            self.notes += [f"{jobs[job]}: {reason}"] if reason else []
            for key, archive in archives.items():
                take_in(self.workshop.store, key, archive)

    def _job(self, steps: str, seconds: float) -> str:
        shop = self.workshop
        about = {
            "key": self.key,
            "model": self.model,
            "task": self.task,
            "steps": steps,
            "seed": shop.seed,
            "threads": shop.threads,
        }
        return json.dumps(about | {"machine": shop.machine.to_json(), "trust": shop.trust, "seconds": seconds})


def check_workers(text: str) -> int:
    """Return how many workers of this machine `--workers` asks for, 0 for a cluster; raises UsageError."""
    if text.isdigit() and int(text) > 1:
        return int(text)
    if text.startswith("ray://"):
        return 0
    raise UsageError(f"--workers is a whole number from 2, or ray://HOST:PORT of a cluster; got {text!r}")


@contextlib.contextmanager
def crew(workers: str, workshop: Workshop, model: str, task: str, base: Made) -> Iterator[Crew]:
    """Start workers, or join a cluster; nothing is reported to anybody about the use of Ray.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing(error, "--workers") from error
    local = check_workers(workers)
    where = {"num_cpus": local * workshop.threads, "include_dashboard": False} if local else {"address": workers}
    try:
        ray.init(log_to_driver=False, logging_level="error", **where)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"no Ray cluster answers at {workers}: {str(error).strip().partition(chr(10))[0]}") from error
    try:
        largest = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
        cpus = min(workshop.threads, largest)
        size = local or max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)
        kept = {key: ray.put(archived(workshop.store, key)) for key in workshop.keys(model) if workshop.store.get(key)}
        yield Crew(ray, workshop, model, task, base.key, size, cpus, kept)
    finally:
        ray.shutdown()


def make(job: str, base: Mapping[str, Any]) -> tuple[dict[str, bytes], str]:
    """Make one model, in a worker: return the archives of what the store here gained, and a reason where it failed."""
    import ray

    about = json.loads(job)
    store = Store()
    for key, archive in base.items():
        if store.get(key) is None:
            take_in(store, key, ray.get(archive))
    shop = Workshop(open_task(about["task"]), store, Machine.from_json(about["machine"]), about["seed"])
    shop.threads, shop.trust, shop.deadline = about["threads"], about["trust"], time.monotonic() + about["seconds"]
    try:
        if shop.keys(about["model"])[-1] != about["key"]:
            return {}, "this worker has other versions of the libraries, or other data, than the machine that asks"
        made = shop.open(about["model"])
        passes = bind(about["steps"]).passes
        wanted = [*shop.chain(made, passes, made)]
        shop.apply(made, passes, made)
    except (TrimtabError, TimeoutError, MemoryError) as error:
        return {}, one_line(error)
    return {key: archived(store, key) for key in wanted}, ""


def archived(store: Store, key: str) -> bytes:
    """Return a stored folder as an archive, without its manifest."""
    folder = store.get(key)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in files_of(folder) if folder else ():
            if path.name != MANIFEST:
                archive.add(path, path.relative_to(folder).as_posix() if folder else "", recursive=False)
    return buffer.getvalue()


def take_in(store: Store, key: str, archive: bytes) -> None:
    """Put an archive into the store under its key, unless something is there; only plain files inside it are taken."""

    def build(folder: Path) -> None:
        with tarfile.open(fileobj=io.BytesIO(archive)) as file:
            file.extractall(folder, filter="data")

    if store.get(key) is None:
        store.make(key, build)
