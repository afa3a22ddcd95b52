"""Trims one real model of every kind, and says what came out: CNNs, RNNs, encoders, ready-made ONNX graphs.

    python benchmarks/workloads.py list
    python benchmarks/workloads.py prepare cnn-small        trains the base once; it lives in the store, never in git
    python benchmarks/workloads.py run cnn-small --seed 1   a run, bench/cnn-small-seed1 in the cache; goes on if killed
    python benchmarks/workloads.py record                   writes tabs/workloads.jsonl from the runs of seed 0
    python benchmarks/workloads.py seeds                    races what several seeds chose; writes tabs/seeds.jsonl

`all` in place of a name means every workload, and `--quick` tiny sizes, for tests. What peers make of the same bases is
in `peers/harness.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import spearmanr

import tabs
from trimtab import api, machines
from trimtab.apply import Made, Workshop, set_quiet_threads
from trimtab.errors import TrimtabError
from trimtab.measure import Bench, axes, choose_runtime
from trimtab.meters import Probe
from trimtab.pack import check
from trimtab.race import race
from trimtab.recipe import bind_runtime
from trimtab.report.progress import Live
from trimtab.request import Request
from trimtab.run.client import Worker
from trimtab.tasks import open_task
from trimtab.trimmer import BUNDLE, RESULT_FILE
from trimtab.values.store import Store, default_root
from trimtab.values.tab import TAB_FILE

NINETY = 0.9
"""Share of the final gain whose time is told."""
MOST_SEEDS, BLOCKS, LONGEST_S = 10, 30, 60.0
"""Seeds that are looked for, blocks of the race between them, and the seconds for which there may be fewer."""


@dataclass(frozen=True)
class Workload:
    """A model, its task and what is promised; the objective is the latency of single examples."""

    id: str
    kind: str
    """cnn, rnn, transformer, detector or recommender: what peers' documentation tells apart."""
    model: str
    """The base, its training included."""
    task: str
    promises: tuple[str, ...]
    within: str = "5m"
    """The time for trimming, and for each peer; training the base does not count."""
    small: tuple[str, str, str] = ("", "", "")
    """Model, task and time of the quick size; what is empty stays."""

    def sized(self, quick: bool) -> Workload:
        """Return the workload itself, or with `quick` its tiny size."""
        if not quick:
            return self
        model, task, within = (new or old for new, old in zip(self.small, self._full, strict=True))
        return replace(self, id=f"quick-{self.id}", model=model, task=task, within=within)

    @property
    def _full(self) -> tuple[str, str, str]:
        return self.model, self.task, "30s"


WORKLOADS = {
    workload.id: workload
    for workload in (
        Workload(
            "cnn-small",
            "cnn",
            "zoo:resnet | train(epochs=5)",
            "mnist5k",
            ("accuracy >= base - 0.01",),
            within="5m",
            small=("zoo:resnet(width=8) | train(epochs=1)", "digits", ""),
        ),
        Workload(
            "cnn-pretrained",
            "cnn",
            "zoo:efficientnet_lite0(pretrained=True) | train(epochs=4, lr=0.001, batch=32)",
            "fashion_mnist(size=64, test=4000)",
            ("accuracy >= base - 0.01",),
            within="6m",
            small=(
                "zoo:efficientnet_lite0(pretrained=True) | train(steps=2)",
                "fashion_mnist(size=32, limit=100, validation=50)",
                "",
            ),
        ),
        Workload(
            "encoder-short",
            "transformer",
            "hf:minilm-l6 | train(epochs=1, batch=32, lr=0.00005)",
            "sentiment(domain='movie')",
            ("accuracy >= base - 0.01",),
            within="8m",
            small=("hf:minilm-l6 | train(steps=1, batch=4)", "", ""),
        ),
        Workload(
            "encoder-long",
            "transformer",
            "hf:minilm-l6 | train(epochs=2, batch=16, lr=0.0002)",
            "newsgroups(max_length=256, test=2000)",
            ("accuracy >= base - 0.01",),
            within="15m",
            small=("hf:minilm-l6 | train(steps=1, batch=4)", "newsgroups(max_length=16)", ""),
        ),
        Workload(
            "rnn-classifier",
            "rnn",
            "zoo:lstm(width=128, depth=2) | train(epochs=30, lr=0.003, clip=1.0)",
            "japanese_vowels",
            ("accuracy >= base - 0.03",),
            within="3m",
            small=("zoo:lstm(width=16) | train(epochs=2)", "", ""),
        ),
        Workload("rnn-seq2seq", "rnn", "zoo:g2p", "cmudict", ("word_error <= base + 0.01",), "3m"),
        Workload("onnx-recurrent", "rnn", "onnx:silero", "speech", ("agreement >= 0.99",), "3m"),
        Workload("onnx-detector", "detector", "onnx:rapidocr", "text_boxes(images=1000)", ("agreement >= 0.97",), "4m"),
        Workload(
            "recommender",
            "recommender",
            "zoo:neumf(width=32) | train(epochs=30, lr=0.003, batch=32, weight_decay=1.0)",
            "movielens",
            ("ndcg_10 >= base * 0.95",),
            within="3m",
            small=("zoo:neumf | train(epochs=1)", "", ""),
        ),
    )
}


def chosen(names: Iterable[str], quick: bool = False) -> list[Workload]:
    """Return the workloads of these names; raises SystemExit that names those there are."""
    listed = list(names)
    unknown = [name for name in listed if name not in (*WORKLOADS, "all")]
    if unknown:
        raise SystemExit(f"no workload {unknown[0]!r}; there are all, {', '.join(WORKLOADS)}")
    wanted = WORKLOADS if "all" in listed else listed
    return [WORKLOADS[name].sized(quick) for name in wanted]


def workshop(workload: Workload, store: Store | None = None, seed: int = 0) -> Workshop:
    """Return the workshop that makes the workload's models, as `trim` would."""
    machine = machines.load("here")
    return Workshop(open_task(workload.task), store or Store(), machine, seed, machine.cores)


def prepare(workload: Workload, store: Store | None = None, progress: Live | None = None) -> Made:
    """Open the base, training it first where it is not in the store: once, with seed 0, whatever is searched later.

    Its answers to validation and test are kept too: every tool is held against the same.
    """
    shop = workshop(workload, store)
    if progress:
        shop.progress = progress.doing
    base = shop.open(workload.model)
    with Bench(shop, base, choose_runtime(base, shop)) as bench:
        bench.unseal()
        for split in ("validation", "test"):
            bench.base_rows(split)  # type: ignore[arg-type]
    return base


def run(workload: Workload, seed: int = 0, within: str = "", store: Store | None = None) -> dict[str, Any]:
    """Trim, or go on where a killed run stopped; return the result document.

    Other seeds search from the same base: they open it as a folder.
    """
    store = store or Store()
    with Live() as live:
        base = prepare(workload, store, live)
        request = Request(
            workload.model if seed == 0 else str(base.folder),
            workload.task,
            workload.promises,
            "latency",
            within_s=api.parse_duration(within or workload.within),
            seed=seed,
            trust=True,
        )
        return api.run(request, folder(workload, seed), live, store).document


def runs() -> Path:
    """Return where runs lie: in the user's cache, as what they are made of does."""
    return default_root() / "bench"


def folder(workload: Workload, seed: int = 0) -> Path:
    """Return the folder of a run."""
    return runs() / f"{workload.id}-seed{seed}"


def finished(workload: Workload, seed: int = 0) -> dict[str, Any] | None:
    """Return the result of a finished run, or None."""
    path = folder(workload, seed) / RESULT_FILE
    return json.loads(path.read_text()) if path.is_file() else None


def lines(workload: Workload, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what a finished run gave as lines of the tab, each with the workload as its group."""
    document = finished(workload, seed)
    if document is None:
        return
    about = {
        "group": workload.id,
        "seed": seed,
        "model": workload.model,
        "task": workload.task,
        "promise": list(workload.promises),
        "recipe": document["recipe"],
        "base_runtime": document["base_runtime"],
        "processor": document["conditions"]["machine"]["cpu"],
    }
    yield {"name": "verdict", "value": document["verdict"], "unit": "", **about}
    for side in ("base", "chosen", "ratios"):
        for name, figure in document[side].items():
            yield {"name": f"{side}_{name}", **figure, **about}
    for name, value in {**document["times"], **_speed_of_search(document, folder(workload, seed))}.items():
        yield {"name": name, "value": value, "unit": _unit(name), **about}


def _unit(name: str) -> str:
    return "s" if name.endswith("_s") else "share" if name.endswith("_share") else ""


def _speed_of_search(document: dict[str, Any], out: Path) -> dict[str, float]:
    """Return when the search had 90% of its final gain, as a share of its time, and how well it predicted.

    That is the median error of latencies, and the rank correlation of losses (Spearman), before each was measured.
    """
    records = [json.loads(line) for line in (out / TAB_FILE).read_text().splitlines()]
    tried = [record for record in records if record["kind"] == "candidate" and record["status"] == "measured"]
    found: dict[str, float] = {}
    latencies = [(record["elapsed_s"], record["figures"]["latency_ms"]["value"]) for record in tried]
    likely = [pair for pair, record in zip(latencies, tried, strict=True) if record["chance"] > 0.5]
    if likely and document["verdict"] == "PASS":
        best = min(latency for _, latency in likely)
        when = next(elapsed for elapsed, latency in likely if best / latency >= NINETY)
        found["gain_90_share"] = when / document["times"]["total_s"]
    errors = [
        abs(record["predicted"]["latency_ms"]["value"] / latency - 1)
        for record, (_, latency) in zip(tried, latencies, strict=True)
        if "latency_ms" in record["predicted"]
    ]
    losses = [(record["predicted"]["quality_loss"]["value"], record["loss"]) for record in tried]
    pairs = [pair for pair in losses if pair[1] is not None]
    if len({loss for _, loss in pairs}) > 1:
        found["loss_rank_correlation"] = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return found | ({"prediction_error_share": median(errors)} if errors else {})


def record(names: Iterable[str] = ()) -> Path:
    """Write tabs/workloads.jsonl from the finished runs of seed 0, all or some; other workloads keep their lines."""
    return _written("workloads", (line for workload in chosen(names or ["all"]) for line in lines(workload, 0)))


def race_seeds(names: Iterable[str] = ()) -> Path:
    """Write tabs/seeds.jsonl: what each seed chose, raced against what the others did; other workloads keep theirs."""
    return _written("seeds", (line for workload in chosen(names or ["all"]) for line in by_seed(workload)))


def _written(name: str, lines: Iterable[dict[str, Any]]) -> Path:
    found = list(lines)
    return tabs.write(name, by_workload([*found, *tabs.kept(name, found)]))


def by_seed(workload: Workload, store: Store | None = None) -> Iterator[dict[str, Any]]:
    """Yield the latency of each seed's choice, its gain as measured in its run, and how far apart the seeds are.

    Runs that follow each other meet different weather, so choices are compared in one race and not by their gains.
    """
    found = {seed: document for seed in range(MOST_SEEDS) if (document := finished(workload, seed))}
    found = {seed: document for seed, document in found.items() if document["bundle"]}
    if len(found) < 2:
        return
    shop = workshop(workload, store)
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(_racer(folder(workload, seed) / BUNDLE, shop)) for seed in found]
        latencies = [figures[0] for figures in race(racers, axes().meters["latency"], BLOCKS, LONGEST_S).figures]
    for (seed, document), latency in zip(found.items(), latencies, strict=True):
        about = {"group": workload.id, "recipe": document["recipe"], "processor": shop.machine.cpu}
        yield {**latency.to_json(), "name": f"seed_{seed}", **about}
        yield {**document["ratios"]["latency_ms"], "name": f"gain_{seed}", **about}
    values = [latency.value for latency in latencies]
    yield {"name": "apart", "value": max(values) / min(values) - 1, "unit": "share", "group": workload.id}


@contextlib.contextmanager
def _racer(bundle: Path, shop: Workshop) -> Iterator[tuple[Worker, Probe]]:
    """Load a bundle in a worker of its own."""
    made, runtime = shop.open(str(bundle / "model")), bind_runtime(check(bundle)["runtime"])
    bench = Bench(shop, made, runtime)
    with bench.worker(made, runtime) as worker:
        yield worker, bench.probe(made, runtime)


def by_workload(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort lines of a tab into the order of the workloads."""
    order = list(WORKLOADS)
    return sorted(found, key=lambda line: order.index(line["group"]))


def tell() -> None:
    """Print every workload and what was done of it."""
    for workload in WORKLOADS.values():
        print(f"{workload.id}: {workload.model} on {workload.task}, {' and '.join(workload.promises)}")
        for path in sorted(runs().glob(f"{workload.id}-seed*/{RESULT_FILE}")):
            document = json.loads(path.read_text())
            print(f"    {path.parent.name}: {document['verdict']}. {document['sentence']}")


def main(words: list[str] | None = None) -> int:
    """Carry out one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("list", "prepare", "run", "record", "seeds"))
    parser.add_argument("names", nargs="*", help="workloads, or all")
    parser.add_argument("--within", default="", help="time for each search, such as 5m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    asked = parser.parse_args(words)
    set_quiet_threads()
    if asked.command == "list":
        tell()
        return 0
    if asked.command in ("record", "seeds"):
        print((record if asked.command == "record" else race_seeds)(asked.names))
        return 0
    failed = [workload.id for workload in chosen(asked.names, asked.quick) if not _done(workload, asked)]
    return 1 if failed else 0


def _done(workload: Workload, asked: argparse.Namespace) -> bool:
    """Carry out the command for one workload; a failure is told, and the next one's turn comes."""
    start = time.monotonic()
    try:
        if asked.command == "run":
            document = run(workload, asked.seed, asked.within)
            print(f"{workload.id}: {document['verdict']}. {document['sentence']}", flush=True)
        else:
            with Live() as live:
                made = prepare(workload, progress=live)
            runtime = choose_runtime(made, workshop(workload))
            print(f"{workload.id}: {time.monotonic() - start:.0f} s, {made.folder}, best @ {runtime}", flush=True)
    except TrimtabError as error:
        print(f"{workload.id}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
