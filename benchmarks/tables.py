"""Fills the marked places of the documents: measured tables from tabs, reference tables from the code itself.

    python benchmarks/tables.py            writes README.md and docs/*.md anew
    python benchmarks/tables.py --check    changes nothing; exit status 1 where a document is stale

A marked place stands between `<!-- KIND:NAME words -->` and `<!-- /KIND -->`:

    tab:NAME      tabs/NAME.jsonl; words: names=a,b (rows, in this order), groups=a,b (one column each) or columns=a,b
                  (keys of the line or of its conditions), keep=largest (of each name the line with the largest value),
                  by=group (a row for each group, a column for each name) or by=name (the other way round)
    registry:KIND every pass, runtime, source, task or meter with its arguments
    map:FOLDER    the Python files and packages of a folder, a line each
    libraries:all what pyproject.toml asks for and constraints.txt holds
    margins:VALUES the tightest margins that so many examples can prove
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.maths.intervals import never_seen_bound
from trimtab.maths.power import smallest_decidable_margin
from trimtab.report.numbers import interval, quantity
from trimtab.values.registry import registry

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "trimtab"
TABS = ROOT / "benchmarks" / "tabs"
PLACE = re.compile(
    r"(<!-- (?P<kind>[a-z]+):(?P<name>\S+)(?P<words>[^>]*?) -->\n)(?P<old>.*?)(<!-- /(?P=kind) -->)", re.S
)
CONTRACTS = {"passes": "Pass", "runtimes": "Runtime", "sources": "Source", "tasks": "Task", "meters": "Meter"}
SETTINGS = SOURCE / "fit" / "settings.py"
"""Where the arguments that passes hand to the training engine are explained."""
DISCORDANCES = (0.01, 0.02, 0.05)
Line = Mapping[str, Any]


def documents() -> list[Path]:
    """Return every document with marked places, or none."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """Return the text of a document with every marked place filled."""

    def fill(found: re.Match[str]) -> str:
        words = dict(word.split("=", 1) for word in found["words"].split())
        return f"{found[1]}{KINDS[found['kind']](found['name'], words)}\n{found[6]}"

    return PLACE.sub(fill, text)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    shown = [[cell.replace("|", "\\|") for cell in row] for row in (titles, ["---"] * len(titles), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


# ---------------------------------------------------------------------------------------------- tab


def tab(name: str, words: Mapping[str, str]) -> str:
    """A table of the figures on a tab, or the sentence that says there is no such tab yet."""
    path = TABS / f"{name}.jsonl"
    if not path.is_file():
        return f"*Not measured yet: there is no {path.relative_to(ROOT)}.*"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = words["names"].split(",") if "names" in words else list(dict.fromkeys(line["name"] for line in lines))
    unknown = {*names} - {line["name"] for line in lines}
    if unknown:
        raise SystemExit(f"{path.name} has no figure {', '.join(sorted(unknown))}, and a document asks for it")
    if words.get("by") == "group":
        by = {(line["name"], line["group"]): line for line in reversed(lines)}
        rows = ([group, *(_value(by.get((name, group))) for name in names)] for group in _groups(lines))
        return table(["", *map(_words, names)], rows)
    if "groups" in words or words.get("by") == "name":
        return _pivot(lines, names, words["groups"].split(",") if "groups" in words else _groups(lines))
    chosen = [line for one in names for line in _kept([li for li in lines if li["name"] == one], words.get("keep", ""))]
    columns = words.get("columns", "name,value,n").split(",")
    titles = [column.rpartition(".")[2].replace("_", " ") for column in columns]
    return table(titles, ([_cell(line, column) for column in columns] for line in chosen))


def _groups(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(line["group"] for line in lines))


def _kept(lines: list[Line], keep: str) -> list[Line]:
    return [max(lines, key=lambda line: line["value"])] if keep == "largest" and lines else lines


def _pivot(lines: Sequence[Line], names: Sequence[str], groups: Sequence[str]) -> str:
    by = {(line["name"], line.get("group")): line for line in lines}
    rows = [[_title(by, name, groups), *(_value(by.get((name, group))) for group in groups)] for name in names]
    return table(["", *groups], rows)


def _title(by: Mapping[Any, Line], name: str, groups: Sequence[str]) -> str:
    """Name a figure; one that is computed from a formula says so."""
    origins = {by[name, group].get("origin", "measured") for group in groups if (name, group) in by}
    other = sorted(origins - {"measured"})
    return _words(name) + (f" ({', '.join(other)})" if other else "")


def _words(name: str) -> str:
    return re.sub(r"_(ms|mb|s|j|per_s)$", "", name).replace("_", " ")


def _value(line: Line | None) -> str:
    if line is None:
        return ""
    value, unit = line["value"], line.get("unit", "")
    if isinstance(value, str):
        return value
    if unit in ("", "1", "count") and float(value).is_integer():
        return f"{value:,.0f}"
    ends = line.get("low"), line.get("high")
    return f"{quantity(value, unit)} {interval(value, ends, unit) if ends[0] != ends[1] else ''}".strip()


def _cell(line: Line, column: str) -> str:
    if column in ("name", "value"):
        return f"`{line['name']}`" if column == "name" else _value(line)
    found: Any = line if column.partition(".")[0] in line else line.get("conditions", {})
    for key in column.split("."):
        found = found.get(key, "") if isinstance(found, Mapping) else ""
    return "exact" if column == "n" and found == 0 else str(found)


# ---------------------------------------------------------------------------------------------- registry


def reference(kind: str, words: Mapping[str, str]) -> str:
    """Every thing of one registry, read from its source text, so that no extra needs to be installed."""
    classes = {node.name: node for path in (SOURCE / kind).glob("*.py") for node in _classes(path)}
    files = sorted(path for path in (SOURCE / kind).glob("*.py") if not path.stem.startswith("_"))
    owns = {path.stem: _registered(path, CONTRACTS[kind], classes) for path in files}
    bases = {name for own in owns.values() for name in _ancestors(own, classes)[1:] if name in classes}
    shared = [row for name in sorted(bases) for row in _fields(classes[name])]
    whole = f"Every one takes:\n\n{_arguments(shared, {})}\n\n" if shared else ""
    meanings = {name: meaning for name, _, meaning in shared}
    return whole + "\n\n".join(_thing(kind, name, own, meanings) for name, own in owns.items())


def _thing(kind: str, name: str, own: ast.ClassDef, meanings: Mapping[str, str]) -> str:
    facts = [_figures(name)] if kind == "meters" else list(_facts(own))
    rows = list(_fields(own))
    lines = [f"### {name}", _paragraph(own), *facts, *([_arguments(rows, meanings)] if rows else [])]
    return "\n\n".join(line for line in lines if line)


def _classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


def _registered(path: Path, contract: str, classes: Mapping[str, ast.ClassDef]) -> ast.ClassDef:
    return next(node for node in _classes(path) if contract in _ancestors(node, classes))


def _ancestors(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> list[str]:
    """Return the class and its bases by name, itself first."""
    found = [node.name]
    for base in node.bases:
        if isinstance(base, ast.Name):
            found += _ancestors(classes[base.id], classes) if base.id in classes else [base.id]
    return found


def _paragraph(node: ast.ClassDef | ast.Module) -> str:
    return (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")


def _facts(own: ast.ClassDef) -> Iterator[str]:
    """Say what a pass takes, gives and belongs to, or what a runtime serves."""
    for part in own.body:
        if isinstance(part, ast.AnnAssign) and part.value is not None:
            label, words = ast.unparse(part.target), _strings(part.value)
            if label == "formats" and isinstance(part.value, ast.Dict):
                takes, gives = _strings(*part.value.keys), _strings(*part.value.values)
                yield f"Takes {', '.join(takes)}; gives {', '.join(gives)}."
            elif label == "formats":
                yield f"Serves {', '.join(words)}."
            elif label == "stage":
                yield f"Stage: {', '.join(words)}."


def _strings(*values: ast.expr | None) -> list[str]:
    found = [node for value in values if value for node in ast.walk(value) if isinstance(node, ast.Constant)]
    return [f"`{node.value}`" for node in found if isinstance(node.value, str)]


def _figures(name: str) -> str:
    axes = registry("meters").take(name).figures.items()
    shown = [f"`{figure}` in {axis.unit}, {axis.better} is better" for figure, axis in axes if axis.unit != "1"]
    shown += [f"`{figure}`, {axis.better} is better" for figure, axis in axes if axis.unit == "1"]
    return f"Figures: {'; '.join(shown)}." if shown else "Figures: the metrics of the task, by their names."


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and meaning of a dataclass's fields; the meaning stands beneath each."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation):
            default = ast.unparse(part.value) if part.value else "needed"
            beneath = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and str(after.value.value)
            yield ast.unparse(part.target), default, beneath or ""


def _arguments(rows: Iterable[tuple[str, str, str]], meanings: Mapping[str, str]) -> str:
    """Write a table of fields; what a field does not say itself its base says, or the training engine."""
    engine = {name: meaning for node in _classes(SETTINGS) for name, _, meaning in _fields(node)}
    known = {**engine, **meanings}
    shown = ((f"`{name}`", f"`{default}`", meaning or known.get(name, "")) for name, default, meaning in rows)
    return table(["argument", "default", "meaning"], ([" ".join(cell.split()) for cell in row] for row in shown))


# ---------------------------------------------------------------------------------------------- the rest


def sitemap(folder: str, words: Mapping[str, str]) -> str:
    """A line for each Python file and package of a folder: the first sentence of its documentation."""
    root = ROOT / folder
    packages = sorted(path.parent for path in root.glob("*/__init__.py"))
    files = [path for path in sorted(root.glob("*.py")) if not path.stem.startswith("_")]
    rows = [(f"{path.relative_to(root)}/", path / "__init__.py") for path in packages]
    rows += [(path.name, path) for path in files]
    return table(
        ["file", "what it is"], ([f"`{name}`", _paragraph(ast.parse(path.read_text()))] for name, path in rows)
    )


def libraries(name: str, words: Mapping[str, str]) -> str:
    """Every library that pyproject.toml names, with the version that constraints.txt holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    groups = {"always": project["dependencies"], **project["optional-dependencies"]}
    rows = []
    for group, wanted in groups.items():
        for one in wanted:
            library = re.split(r"[<>=]", one)[0]
            extra = group if group == "always" else f"`[{group}]`"
            rows.append([library, extra, one.removeprefix(library), pins.get(library, "")])
    return table(["library", "installed with", "asked for", "release seen"], rows)


def margins(names: str, words: Mapping[str, str]) -> str:
    """The tightest margins that can be proved, by examples and by the share of answers that change."""
    titles = ["test examples", "no answer changes", *(f"{share:.0%} change" for share in DISCORDANCES)]
    rows = []
    for n in map(int, names.split(",")):
        values = [never_seen_bound(n, 0.95), *(smallest_decidable_margin(n, share) for share in DISCORDANCES)]
        rows.append([f"{n:,}", *(quantity(value, "share") for value in values)])
    return table(titles, rows)


KINDS: Mapping[str, Callable[[str, Mapping[str, str]], str]] = {
    "tab": tab,
    "registry": reference,
    "map": sitemap,
    "libraries": libraries,
    "margins": margins,
}


def stale() -> list[Path]:
    """Return the documents that no longer say what tabs and code say."""
    return [path for path in documents() if filled(path.read_text()) != path.read_text()]


def main() -> int:
    """Write the documents anew, or with `--check` only name those that are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a document is stale; write nothing")
    check = parser.parse_args().check
    for path in (found := stale()):
        if check:
            print(f"{path.relative_to(ROOT)} is stale; run python benchmarks/tables.py", file=sys.stderr)
        else:
            path.write_text(filled(path.read_text()))
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
