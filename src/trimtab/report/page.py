"""The offline page: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from trimtab.errors import OutputError
from trimtab.report import conditions, gain, sections
from trimtab.report.document import Result, mapping
from trimtab.report.markup import Markup, tag

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Forbids the browser to load or to run anything, whatever the document says."""


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result document (the one `trimtab trim --json` prints)."""
    run = Result(mapping(result))
    shown = (
        sections.tab,
        gain.gain,
        sections.frontier,
        sections.promises,
        sections.predictions,
        gain.roofline,
        sections.flips,
        sections.candidates,
        sections.empty_cells,
        conditions.conditions,
        conditions.repeat,
    )
    return _html(run, sections.hero(run), *(section(run) for section in shown))


def roofline_page(measured: Mapping[str, Any]) -> str:
    """Return the page of one picture: the roofline of what `trimtab measure` gives."""
    run = Result(mapping(measured))
    return _html(run, tag("h1", f"{run.text('recipe')} of {run.text('model')}"), gain.roofline(run))


def _html(run: Result, *sections_: Markup | None) -> str:
    return document_page(f"{run.headline}: {run.text('model') or 'trimtab'}", *sections_)


def document_page(title: str, *sections_: Markup | None) -> str:
    """Return a page of sections under a title."""
    return "<!doctype html>\n" + tag("html", _head(title), tag("body", tag("main", *sections_)), lang="en") + "\n"


def _head(title: str) -> Markup:
    style = Markup(files("trimtab.report").joinpath("page.css").read_text(encoding="utf-8"))
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )


def write_page(
    result: Mapping[str, Any], path: str | os.PathLike[str], make: Callable[[Mapping[str, Any]], str] = page
) -> Path:
    """Write a page to `path`, whole or not at all, and return it; raises OutputError where it cannot."""
    target = Path(path)
    content = make(result).encode("utf-8", errors="replace")
    try:
        _replace(target, content)
    except OSError as error:
        raise OutputError(f"cannot write the report {target}: {error.strerror or error}; name another place") from error
    return target


def _replace(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".report-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
