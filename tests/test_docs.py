"""What the documents say holds: commands parse, snippets run or compile, links lead somewhere, tables are fresh."""

import ast
import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from trimtab.cli import KEPT, parser
from trimtab.machines import here
from trimtab.meters import Probe
from trimtab.passes import Context
from trimtab.sources.null import Null
from trimtab.tasks.toy import Toy
from trimtab.testing import (
    check_meter,
    check_pass,
    check_repeats,
    check_runtime,
    check_scores,
    check_source,
    check_task,
)
from trimtab.trimmer import Run
from trimtab.values.registry import KINDS, registry
from trimtab.values.task import TaskView

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
EVERYTHING = "\n".join(TEXTS.values())
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
FILE = re.compile(r"`(\w+)\.py`:\n\n```python\n(.*?)^```", re.S | re.M)
BLOCKS = [(name, kind, block) for name, text in TEXTS.items() for kind, block in BLOCK.findall(text)]
COMMANDS = [
    (name, line)
    for name, kind, block in BLOCKS
    if kind == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
LINKS = [(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(([^)]+)\)", text)]


def load(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    yield load(ROOT / "benchmarks" / "tables.py", "tables_of_documents")
    del sys.modules["tables_of_documents"]


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """The files that the documents show, written and imported under their own names."""
    folder = tmp_path_factory.mktemp("snippets")
    found = dict(FILE.findall(TEXTS["docs/extend.md"] + TEXTS["docs/own.md"]))
    for name, code in found.items():
        (folder / f"{name}.py").write_text(code)
    wanted = [name for name in found if name != "net"]
    yield {name: load(folder / f"{name}.py", name) for name in wanted}
    for name in wanted:
        del sys.modules[name]


@pytest.fixture
def model(tmp_path):
    return Null().open("linear", tmp_path / "model", TaskView(Toy()))


class InProcess:
    """A session as a meter sees it, without a worker."""

    def __init__(self, session):
        self.session, self.spent = session, 0.0

    def run(self, inputs):
        return self.session.run(inputs)

    def time(self, inputs, seconds):
        self.session.run(inputs)
        self.spent += 0.004
        return np.full(4, 0.001)

    def usage(self):
        return {"cpu_seconds": self.spent, "peak_memory_mb": 1.0, "base_memory_mb": 1.0}


def test_the_documents_hold_commands_and_snippets():
    assert len(COMMANDS) > 10
    assert {kind for _, kind, _ in BLOCKS} == {"sh", "python", "toml"}


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_every_command_line_parses(name, line):
    program, *words = shlex.split(line)
    assert program == "trimtab"
    assert callable(parser().parse_args(words).verb)


@pytest.mark.parametrize(("name", "kind", "block"), BLOCKS)
def test_every_snippet_is_python_or_toml(name, kind, block):
    if kind == "python":
        compile(block, name, "exec")
    if kind == "toml":
        tomllib.loads(block)


def test_names_in_recipes_and_references_are_known():
    from trimtab.values.notation import Recipe

    for _, line in COMMANDS:
        words = vars(parser().parse_args(shlex.split(line)[1:]))
        texts = [words["model"].partition("|")[2]] if "model" in words else []
        for text in (*texts, *([words["recipe"]] if "recipe" in words else [])):
            recipe = Recipe.parse(text)
            assert {step.name for step in recipe.steps} <= set(registry("passes").names())
            assert recipe.runtime is None or recipe.runtime.name in registry("runtimes").names()


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_every_link_leads_to_a_file_and_a_heading(name, link):
    if link.startswith("https://"):
        return
    path, _, heading = link.partition("#")
    target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
    assert target.is_file(), f"{name} links to {link}"
    headings = [
        line.lstrip("# ").lower().replace(" ", "-") for line in target.read_text().splitlines() if line[:1] == "#"
    ]
    assert not heading or heading in headings, f"{name} links to {link}"


@pytest.mark.parametrize("kind", KINDS)
def test_everything_in_a_registry_is_described(kind):
    reference = TEXTS["docs/recipes.md"].partition(f"<!-- registry:{kind} -->")[2].partition("<!-- /registry -->")[0]
    mine = {path.stem for path in (ROOT / "src" / "trimtab" / kind).glob("*.py") if path.stem[0] != "_"}
    assert {line[4:] for line in reference.splitlines() if line.startswith("### ")} == mine


def keys_of(file: str, function: str) -> set[str]:
    """Return the keys of the dictionary that a function ends with."""
    code = ast.parse((ROOT / "src" / "trimtab" / file).read_text())
    (found,) = [node for node in ast.walk(code) if isinstance(node, ast.FunctionDef) and node.name == function]
    return {key.value for key in found.body[-1].value.keys}


def test_every_key_of_the_documents_is_explained():
    text = TEXTS["docs/json.md"]
    rows = text.partition("## `trim` and `report`")[2].partition("## ")[0].splitlines()
    first = " ".join(row.split("|")[1] for row in rows if row.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", first)) == keys_of("result.py", "document")
    (measured,) = [row for row in text.splitlines() if row.startswith("| `measure` |")]
    assert set(re.findall(r"`(\w+)`", measured.split("|")[2])) == keys_of("measure.py", "measure")


def test_every_time_and_every_kind_of_line_on_a_tab_is_explained():
    text = TEXTS["docs/json.md"]
    (times,) = [row for row in text.splitlines() if row.startswith("| `times` |")]
    spent = {f"{name}_s" for name in Run.__dataclass_fields__["seconds"].default_factory()}
    assert set(re.findall(r"`(\w+)`", times.split("|")[2])) == spent | {"total_s", "other_s"}
    code = "\n".join(path.read_text() for path in (ROOT / "src" / "trimtab").rglob("*.py"))
    written = set(re.findall(r"\btab\.append\(\"(\w+)\"", code)) | {"torn"}
    said = text.partition("Kinds:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", said)) - {"sentence"} == written


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    reasons = TEXTS["docs/dependencies.md"].partition("## Why each")[2]
    assert [one for one in wanted if re.split(r"[<>=]", one)[0] not in reasons] == []


def test_no_table_is_stale(tables):
    assert [path.name for path in tables.stale()] == [], "run python benchmarks/tables.py"


def test_check_names_a_stale_document_and_writing_mends_it(tables, tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!-- margins:100 -->\nold\n<!-- /margins -->\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    assert tables.main() == 1
    assert "README.md is stale" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    assert tables.main() == KEPT
    assert "| 100 |" in page.read_text()
    assert tables.stale() == []


def test_a_table_shows_groups_intervals_and_what_is_modelled(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "TABS", tmp_path)
    (tmp_path / "some.jsonl").write_text(
        '{"name": "latency_ms", "group": "base", "value": 2.0, "unit": "ms", "low": 1.9, "high": 2.2}\n'
        '{"name": "energy_j", "group": "base", "value": 3.0, "unit": "J", "origin": "modelled"}\n'
    )
    shown = tables.tab("some", {"names": "latency_ms,energy_j", "groups": "base,chosen"}).splitlines()
    assert shown[2:] == ["| latency | 2.00 ms [1.90, 2.20] |  |", "| energy (modelled) | 3.00 J |  |"]
    with pytest.raises(SystemExit, match="size_mb"):
        tables.tab("some", {"names": "size_mb"})
    assert "Not measured yet" in tables.tab("absent", {})


def test_no_path_of_one_machine_is_in_the_documents():
    assert re.findall(r"(?:^|[\s`'\"(])(/(?:home|root|tmp|work|mnt|Users)/\S*)", EVERYTHING) == []


def test_the_readme_shows_the_command_of_the_demo():
    code = ast.parse((ROOT / "benchmarks" / "demo.py").read_text())
    (words,) = [
        node.value for node in code.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WORDS"
    ]
    said = shlex.split(next(line for name, line in COMMANDS if name == "README.md"))
    assert [ast.literal_eval(word) for word in words.elts if isinstance(word, ast.Constant)] == said[1:-1]


def test_contributing_is_short():
    assert len(TEXTS["CONTRIBUTING.md"].splitlines()) <= 40


def test_the_pass_shown_keeps_its_contract(snippets, model, tmp_path):
    halve = snippets["halve"].Halve()
    context = Context(TaskView(Toy()), tmp_path / "made", here())
    context.scratch.mkdir()
    half = check_pass(halve, model, context)
    check_repeats(halve, model, context, half)
    assert "16 bits" in halve.refuses(half, here())


def test_the_runtime_and_the_meter_shown_keep_their_contracts(snippets, model):
    runtime, task = snippets["plain"].Plain(), Toy()
    batch = task.collate(task.split("train")[:4])
    outputs = check_runtime(runtime, model, batch, here())
    check_scores(task, outputs, batch)
    probe = Probe(TaskView(task), "validation", model, here(), seconds=0.01)
    meter = snippets["processor"].Processor()
    check_meter(meter, InProcess(runtime.load(model, here())), probe)


def test_the_source_shown_keeps_its_contract(snippets, tmp_path):
    assert check_source(snippets["ones"].Ones(), "3", tmp_path, Toy()).main.facts.parameters == 15


@pytest.mark.parametrize("name", ["parity.Parity", "my_task.Ring"])
def test_the_tasks_shown_keep_their_contract(snippets, name):
    module, _, kind = name.partition(".")
    task = getattr(snippets[module], kind)()
    check_task(task)
    examples = task.split("train")[:4]
    check_scores(task, {"output": np.eye(2)[[0, 1, 0, 1]]}, task.collate(examples))
