"""The command `trimtab`: reads the words, calls the verbs, prints the tab, and turns errors into one clear line.

Exit status: 0 promise kept (or done), 3 not kept or undecided, 2 wrong usage, 1 failure, 130 interrupted.
Heavy modules are imported by the verb that needs them, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trimtab import __version__
from trimtab.errors import TrimtabError, UnknownName, UsageError

KEPT, FAILED, NOT_KEPT, INTERRUPTED = 0, 1, 3, 130
USUAL_CONFIDENCE = 0.95
LISTS = ("passes", "runtimes", "sources", "tasks", "meters", "machines")
TROUBLES = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE})
"""System errors that the user can mend; any other one is a bug of ours and keeps its traceback."""
CHOICE = re.compile(r"argument (\w+): invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """Raises UsageError, one line, where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where to look."""
        found = CHOICE.match(message)
        if found:
            raise UnknownName(found[1].lower(), found[2], re.findall(r"\w+", found[3]))
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        status = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except TrimtabError as error:
        return complain(str(error), error.exit_status, as_json)
    except KeyboardInterrupt:
        return complain("interrupted; what was finished is kept, and the same command goes on", INTERRUPTED, as_json)
    except MemoryError:
        return complain("this machine's memory is not enough; what was finished is kept", FAILED, as_json)
    except OSError as error:
        if error.errno not in TROUBLES:
            raise
        where = f": {error.filename}" if error.filename else ""
        return complain(f"{error.strerror}{where}; what was finished is kept", FAILED, as_json)
    return status


def _run(given: Sequence[str]) -> int:
    top = parser()
    if not given:
        top.print_help()
        return KEPT
    words = top.parse_args(given)
    verb: Callable[[argparse.Namespace], int] = words.verb
    return verb(words)


def complain(message: str, status: int, as_json: bool) -> int:
    """Print an error on stderr, and as a document on stdout where `--json` was asked for."""
    if as_json:
        print(json.dumps({"error": message, "exit_status": status}))
    print(f"trimtab: {message}", file=sys.stderr)
    return status


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[str], Any]:
    """Return a check that a word is a finite number between two others."""
    what = "a whole number" if kind is int else "a number"
    to = f" to {most:.12g}" if math.isfinite(most) else " on"

    def check(text: str) -> int | float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if least <= value <= most and math.isfinite(value):
                return value
        raise argparse.ArgumentTypeError(f"takes {what} from {least:g}{to}, got {text!r}")

    return check


SEED, GB = number(int, 0, 2**32 - 1), number(float, 0)


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = Parser(prog="trimtab", description="Trim a model, keep its promise, and get the tab.")
    top.add_argument("--version", action="version", version=f"trimtab {__version__}")
    verbs = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _trim_words(verbs.add_parser("trim", help="find the cheapest model that keeps a promise"))
    _apply_words(verbs.add_parser("apply", help="run a recipe on a model"))
    _measure_words(verbs.add_parser("measure", help="read every figure of a recipe's result"))
    _verify_words(verbs.add_parser("verify", help="test a bundle's promise on the sealed split"))
    _plan_words(verbs.add_parser("plan", help="predict time, memory, money, energy and CO2 before they are spent"))
    _forecast_words(verbs.add_parser("forecast", help="fit a scaling law to runs, and say what to spend compute on"))
    _calibrate_words(verbs.add_parser("calibrate", help="measure this machine, for plans with --on here"))
    _validate_words(verbs.add_parser("validate", help="hold the planner against published measurements"))
    report = _verb(verbs.add_parser("report", help="print a run's tab and write its page"), _report)
    report.add_argument("run", metavar="RUN", help="run folder")
    lists = _verb(verbs.add_parser("list", help="list what there is"), _list)
    lists.add_argument("kind", choices=LISTS)
    lists.add_argument("name", nargs="?", help="one of them, in full")
    _verb(verbs.add_parser("doctor", help="say what this machine and installation can do"), _doctor)
    cache = _verb(verbs.add_parser("cache", help="show or shrink the store of artefacts"), _cache)
    cache.add_argument("--shrink", metavar="GB", type=GB, help="drop what was used longest ago, down to this size")
    cache.add_argument("--clear", action="store_true", help="drop everything but the record of sealed splits opened")
    return top


def _verb(words: argparse.ArgumentParser, verb: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    words.set_defaults(verb=verb)
    words.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return words


def _model_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("model", metavar="MODEL", help="SOURCE:REF, 'zoo:resnet | train(epochs=5)', or a folder")
    words.add_argument("task", metavar="TASK", help="mnist5k, data.csv(target='label'), arrays.npz, my_task.py:MyTask")
    words.add_argument("--on", default="here", metavar="MACHINE", help="machine to measure and predict on")
    words.add_argument("--seed", type=SEED, default=0)
    _trust_word(words)


def _trust_word(words: argparse.ArgumentParser) -> None:
    words.add_argument("--trust", action="store_true", help="let a model folder run the code that it names")


def _promise_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("--promise", action="append", default=[], metavar="TEXT", help="'accuracy >= base - 0.01'")
    words.add_argument("--confidence", type=number(float, 0.5, 0.999), help="0.95, or what a bundle to verify names")


def _trim_words(words: argparse.ArgumentParser) -> None:
    _model_words(_verb(words, _trim))
    _promise_words(words)
    words.add_argument("--for", dest="objective", default="latency", metavar="FIGURE", help="what to make cheap")
    words.add_argument("--within", default="10m", metavar="TIME", help="90s, 5m, 2h: for everything, base included")
    words.add_argument("--out", type=Path, default=Path("runs/trim"), metavar="DIR", help="run folder; goes on with it")
    words.add_argument("--limit", action="append", default=[], metavar="TEXT", help="'size_mb <= 1'")
    words.add_argument("--try", dest="tries", action="append", default=[], metavar="RECIPE", help="try this one first")
    words.add_argument("--no-train", dest="train", action="store_false", help="leave out passes that fit weights")
    words.add_argument("--memory", type=number(float, 0), default=0.0, metavar="MB", help="memory limit of each worker")
    words.add_argument("--workers", default="", metavar="N|URL", help="make models side by side: 4, or ray://HOST:PORT")
    words.add_argument("--dry-run", action="store_true", help="list candidates, predictions and what can be decided")


def _apply_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("recipe", metavar="RECIPE", help="'prune(ratio=0.5) | distill(epochs=3) | onnx'")
    _model_words(_verb(words, _apply))
    words.add_argument("--out", type=Path, required=True, metavar="DIR")


def _measure_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("recipe", metavar="RECIPE", help="'onnx @ onnxruntime(threads=1)', or '@ torch(threads=1)'")
    _model_words(_verb(words, _measure))
    words.add_argument(
        "--roofline", nargs="?", const="", metavar="PAGE", help="how far from the roof; PAGE.html draws it"
    )


def _verify_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("bundle", metavar="BUNDLE", type=Path)
    words.add_argument("task", metavar="TASK")
    words.add_argument("--against", required=True, metavar="MODEL", help="the original")
    words.add_argument("--on", default="here", metavar="MACHINE")
    words.add_argument("--seed", type=SEED, help="of the original; by default the one that the bundle names")
    _trust_word(words)
    _promise_words(_verb(words, _verify))


def _plan_words(words: argparse.ArgumentParser) -> None:
    kinds = words.add_subparsers(title="what", required=True, metavar="WHAT")
    train = _verb(kinds.add_parser("train", help="a training: how long, on what, for how much"), _plan_train)
    train.add_argument("--measured", type=Path, metavar="RUNS", help="runs (CSV or tab) to be held against their plans")
    train.add_argument("--explain-miss", action="store_true", help="with --measured: which term of a plan was off")
    _planned_words(train)
    _training_words(train)
    serve = _verb(kinds.add_parser("serve", help="serving: latency, throughput, price of tokens"), _plan_serve)
    _planned_words(serve)
    _serving_words(serve)
    either = _verb(kinds.add_parser("choose", help="either, on every chip there is, and why not the others"), _choose)
    _planned_words(either)
    _training_words(either)
    _serving_words(either, tp=False)


def _planned_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("model", metavar="MODEL", help="gpt:175b, llama3:8b, hf:FOLDER, resnet50, onnx:FILE, zoo:resnet")
    words.add_argument(
        "--on", action="append", metavar="CHIP", help="a100-sxm-80gb, one's own file, or here; all chips by default"
    )
    words.add_argument("--task", metavar="TASK", help="what a net that is opened (zoo:, torch:, keras:) runs on")
    words.add_argument(
        "--batch",
        type=number(int, 1),
        metavar="N",
        help="sequences of a step, or served at once; for a net samples of a chip",
    )
    words.add_argument("--dtype", choices=("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"))
    words.add_argument(
        "--region", metavar="PLACE", help="of the electricity: DEU, gcp:europe-west4; the world by default"
    )
    words.add_argument("--price", type=number(float, 0), metavar="USD", help="of a chip and hour, for the list's")
    words.add_argument("--spot", action="store_true", default=None, help="interruptible prices, where they are known")
    words.add_argument("--page", type=Path, metavar="FILE", help="write the plan as a page of HTML")
    words.add_argument("--out", type=Path, metavar="RUN", help="append every figure to this run folder's tab")


def _training_words(words: argparse.ArgumentParser) -> None:
    words.add_argument("--tokens", metavar="N", help="300e9, 2t")
    words.add_argument("--samples", metavar="NxEPOCHS", help="1.28e6x90, for nets that train on samples")
    words.add_argument("--seq", type=number(int, 1), metavar="N", help="tokens of a sequence; 2048 by default")
    words.add_argument("--count", metavar="N", help="chips: 1024, or 64,128; many are tried by default")
    words.add_argument("--budget", metavar="USD", help="5e6usd")
    words.add_argument("--deadline", metavar="TIME", help="60d")
    words.add_argument(
        "--stack", metavar="NAME", help="the program: megatron-core, fsdp-compiled, fsdp, eager, xla, ..."
    )
    for name in ("tp", "pp", "dp", "cp", "ep", "micro-batch", "interleave"):
        words.add_argument(f"--{name}", type=number(int, 1), metavar="N")
    words.add_argument("--zero", type=number(int, 0, 3), metavar="0..3", help="what replicas share out")
    words.add_argument("--shard", type=number(int, 1), metavar="N", help="chips that share out one copy (HSDP, zero 3)")
    words.add_argument(
        "--lora", action="store_true", default=None, help="only small adapters are trained, the weights stay"
    )
    words.add_argument("--recompute", choices=("none", "selective", "operators", "full"))


def _serving_words(words: argparse.ArgumentParser, tp: bool = True) -> None:
    words.add_argument("--prompt", type=number(int, 1), metavar="N", help="tokens read; 1024 by default")
    words.add_argument("--output", type=number(int, 1), metavar="N", help="tokens written; 256 by default")
    words.add_argument("--ttft", metavar="TIME", help="limit of the time to the first token: 0.5s")
    words.add_argument("--tpot", metavar="TIME", help="limit of the time of each further token: 50ms")
    if tp:
        words.add_argument("--tp", type=number(int, 1), metavar="N", help="chips that share the model")


def _forecast_words(words: argparse.ArgumentParser) -> None:
    _verb(words, _forecast)
    words.add_argument("runs", type=Path, metavar="RUNS.csv", help="columns parameters, tokens, loss")
    words.add_argument(
        "--compute", type=number(float, 1), metavar="N", help="operations to be spent; ten times the runs'"
    )
    words.add_argument("--page", type=Path, metavar="FILE", help="write the forecast as a page of HTML")


def _validate_words(words: argparse.ArgumentParser) -> None:
    _verb(words, _validate)
    words.add_argument("--tables", type=Path, metavar="DIR", help="a folder of tables; the checkout's by default")


def _plan_train(words: argparse.Namespace) -> int:
    from trimtab.planner import missed, train

    if words.measured:
        show(words, missed(vars(words)), "misses")
        return KEPT
    if words.explain_miss:
        raise UsageError("--explain-miss explains measured runs: give them with --measured RUNS")
    return _show_plan(words, train(vars(words)))


def _plan_serve(words: argparse.Namespace) -> int:
    from trimtab.planner import serve

    return _show_plan(words, serve(vars(words)))


def _choose(words: argparse.Namespace) -> int:
    from trimtab.planner import choose

    return _show_plan(words, choose(vars(words)))


def _forecast(words: argparse.Namespace) -> int:
    from trimtab.plan.verbs import forecast

    return _show_page(words, forecast(words.runs, words.compute), "forecast")


def _calibrate_words(words: argparse.ArgumentParser) -> None:
    _verb(words, _calibrate)
    words.add_argument("models", nargs="*", metavar="MODEL", help="nets of one's own to be measured beside the zoo's")
    words.add_argument("--task", default="", metavar="TASK", help="what they run on")
    words.add_argument("--batch", type=number(int, 1), default=16, metavar="N", help="examples of their steps")


def _calibrate(words: argparse.Namespace) -> int:
    from trimtab.calibrate import calibrate
    from trimtab.report.progress import Live

    with Live() as progress:
        document = calibrate(words.models, words.task, words.batch, progress.doing)
    show(words, document, "calibration")
    return KEPT


def _validate(words: argparse.Namespace) -> int:
    from trimtab.plan.validate import validate

    show(words, validate(words.tables), "validation")
    return KEPT


def _show_plan(words: argparse.Namespace, document: Mapping[str, Any]) -> int:
    status = _show_page(words, document, "planned")
    if words.out:
        from trimtab.planner import write_tab

        write_tab(document, words.out)
    return status


def _show_page(words: argparse.Namespace, document: Mapping[str, Any], kind: str) -> int:
    show(words, document, kind)
    if words.page:
        from trimtab.report.page import write_page
        from trimtab.report.planned_page import PAGES

        write_page(document, words.page, PAGES[kind])
    return KEPT


def _trim(words: argparse.Namespace) -> int:
    from trimtab.api import parse_duration, run
    from trimtab.report.progress import Live
    from trimtab.request import Request
    from trimtab.trimmer import dry_run

    request = Request(
        model=words.model,
        task=words.task,
        promises=tuple(words.promise),
        objective=words.objective,
        limits=tuple(words.limit),
        on=words.on,
        within_s=parse_duration(words.within),
        tries=tuple(words.tries),
        train=words.train,
        seed=words.seed,
        confidence=USUAL_CONFIDENCE if words.confidence is None else words.confidence,
        memory_limit_mb=words.memory,
        trust=words.trust,
        workers=words.workers,
    )
    with Live() as progress:
        if words.dry_run:
            document, status = dry_run(request, progress), KEPT
        else:
            document = run(request, words.out, progress).document
            status = KEPT if document["verdict"] in ("PASS", "BASE") else NOT_KEPT
    show(words, document, "plan" if words.dry_run else "result")
    return status


def _apply(words: argparse.Namespace) -> int:
    from trimtab.apply import apply_recipe

    with workshop(words, measures=False) as shop:
        made = apply_recipe(words.model, words.recipe, shop, words.out)
    facts = made.model.facts.to_json()
    show(
        words, {"out": str(made.folder), "lineage": list(made.model.lineage), "facts": facts, "notes": made.model.notes}
    )
    return KEPT


def _measure(words: argparse.Namespace) -> int:
    from trimtab.measure import measure

    with workshop(words) as shop:
        document = measure(words.model, words.recipe, shop)
    show(words, document, "figures")
    if words.roofline is not None and not words.json:
        show(words, document["roofline"], "roofline")
    if words.roofline:
        from trimtab.report.page import roofline_page, write_page

        write_page(document, words.roofline, roofline_page)
    return KEPT


def _verify(words: argparse.Namespace) -> int:
    from trimtab.certify import verify_bundle
    from trimtab.pack import check

    about = check(words.bundle)
    words.seed = int(about.get("seed", 0)) if words.seed is None else words.seed
    named = float(about.get("confidence", USUAL_CONFIDENCE))
    confidence = named if words.confidence is None else words.confidence
    with workshop(words) as shop:
        document = verify_bundle(words.bundle, words.against, words.promise, confidence, shop)
    show(words, document, "verification")
    return KEPT if document["verdict"] == "PASS" else NOT_KEPT


def _report(words: argparse.Namespace) -> int:
    from trimtab.api import REPORT_FILE, read_result
    from trimtab.report.page import write_page

    document = read_result(Path(words.run))
    page = Path(words.run) / REPORT_FILE
    write_page(document, page)
    show(words, document, "result")
    print(f"page: {page}", file=sys.stderr)
    return KEPT


def _list(words: argparse.Namespace) -> int:
    from trimtab import machines
    from trimtab.report.catalogue import describe
    from trimtab.values.registry import registry

    if words.kind == "machines":
        names = (words.name,) if words.name else ("here", *machines.names())
        facts = {name: machines.load(name) for name in names}
        document: dict[str, Any] = {name: machine.to_json() for name, machine in facts.items()}
        if not words.json and not words.name:
            document = {name: machine.summary for name, machine in facts.items()}
    elif words.name:
        document = {words.name: describe(words.kind, words.name)}
    else:
        document = {name: registry(words.kind).summary(name) for name in registry(words.kind).names()}
    show(words, document)
    return KEPT


def _doctor(words: argparse.Namespace) -> int:
    from trimtab.report.catalogue import doctor

    show(words, doctor())
    return KEPT


def _cache(words: argparse.Namespace) -> int:
    from trimtab.values.store import Store

    store = Store()
    freed = 0
    if words.clear or words.shrink is not None:
        freed = store.shrink(0 if words.clear else int(words.shrink * 1e9))
        if words.clear:
            store.clear_unfinished()
    entries = store.entries()
    used = sum(size for _, size, _ in entries)
    numbers = {"entries": len(entries), "size_mb": round(used / 1e6, 1), "freed_mb": round(freed / 1e6, 1)}
    show(words, {"folder": str(store.root), **numbers, "limit_mb": round(store.limit_bytes / 1e6)})
    return KEPT


def show(words: argparse.Namespace, document: Mapping[str, Any], kind: str = "plain") -> None:
    """Print a document: as JSON, or as the terminal shows that kind."""
    if words.json:
        print(json.dumps(document, indent=1, allow_nan=False))
        return
    from rich.console import Console

    from trimtab.report.faces import FACES

    Console().print(FACES[kind](document))


def workshop(words: argparse.Namespace, measures: bool = True) -> Any:
    """Return a context that opens a workshop for the words' task, machine and seed, with progress on stderr."""
    from trimtab.api import open_workshop

    return open_workshop(words.task, words.on, words.seed, words.trust, measures)


if __name__ == "__main__":
    sys.exit(main())
