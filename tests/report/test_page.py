import html
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_results import HOSTILE, edges, result

from trimtab.errors import OutputError
from trimtab.report.markup import VOID
from trimtab.report.page import page, write_page

EDGES = edges()


class Reader(HTMLParser):
    """Collects tags, attributes and text, and fails on a tag that does not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def numbers(self, *names: str) -> list[float]:
        return [float(a[n]) for _, a in self.tags for n in names if a.get(n) and not a[n].endswith("%")]


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_every_edge_gives_a_well_formed_page_that_fetches_and_runs_nothing(name):
    source = page(EDGES[name])
    read = Reader(source)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in read.tags}
    assert not {key for _, attributes in read.tags for key in attributes if key.startswith("on")}
    assert not re.search(r"https?:|//\w|url\(|@import|javascript:", source)
    assert "nan" not in " ".join(str(a) for t, a in read.tags if t not in ("text", "title")).lower().replace(
        "finance", ""
    )


def test_every_candidate_promise_slice_and_empty_cell_is_on_the_page():
    document = result()
    shown = Reader(page(document)).text
    for candidate in document["candidates"]:
        assert (candidate["recipe"] in shown) == (candidate["status"] != "not tried")
        assert (candidate["reason"] or "") in shown
    for row in document["promises"]:
        assert row["promise"] in shown
        assert row["slice"] in shown
    for cell in document["empty_cells"]:
        assert cell["reason"] in shown
    for split in document["conditions"]["splits"].values():
        assert split["sha256"] in shown
    assert document["sentence"] in shown
    assert "The first 20 of 26 listed." in shown


def test_the_numbers_on_the_page_are_those_of_the_document():
    shown = Reader(page(result())).text
    for words in ("7.09×", "[6.81, 7.37]", "4.21 ms", "0.594 ms", "−0.32 points", "[−0.71, +0.04]", "13.3×"):
        assert words in shown


def test_a_promise_with_a_factor_shows_what_changed_and_names_what_was_tested():
    shown = Reader(page(EDGES["factor"])).text
    assert "+0.00500 nats" in shown
    assert "trimmed − 1.02 × base: −0.00500 [−0.00900, −0.00100]" in shown
    assert "−0.00500 nats" not in shown
    assert "minus that many times the base" in shown
    assert "minus that many times the base" not in Reader(page(result())).text


def test_hostile_text_is_shown_and_never_obeyed():
    source = page(EDGES["hostile"])
    assert "<script" not in source
    assert "&lt;script&gt;" in source
    assert not set("\x1b\u202e\ud800") & set(source)
    assert "<script>alert('x')" in Reader(source).text
    style = re.search(r"<style>(.*?)</style>", page(result()), re.DOTALL)
    assert style
    assert style.group(1) in source


def test_flips_without_answers_are_listed_by_their_examples():
    document = result()
    document["flips"]["examples"] = [{"id": f"word {number}"} for number in range(3)]
    shown = Reader(page(document)).text
    assert "word 2" in shown
    assert "Base answered" in Reader(page(result())).text
    assert "Base answered" not in shown
    assert "✓" not in shown.split("wrong before, right now")[1].split("Empty cells")[0]


def test_the_chosen_row_is_the_only_one_marked_as_chosen():
    read = Reader(page(result()))
    assert sum(a.get("class") == "is-chosen-row" for _, a in read.tags) == 1
    assert sum(a.get("class") == "is-chosen-row" for _, a in Reader(page(EDGES["infeasible"])).tags) == 0


@pytest.mark.parametrize(
    ("verdict", "words"), [("PASS", "Promise kept"), ("FAIL", "Promise not kept"), ("BASE", "Nothing beat the base")]
)
def test_the_verdict_is_said_in_words(verdict, words):
    assert words in Reader(page(result() | {"verdict": verdict})).text


def test_a_second_opening_of_the_test_split_is_pointed_out():
    document = result()
    assert "opened more than once" not in page(document)
    again = document | {"conditions": document["conditions"] | {"test_openings": 2}}
    assert "opened more than once" in page(again)


def test_the_commands_quote_what_a_shell_would_take_apart():
    shown = Reader(page(result())).text
    assert "trimtab trim 'zoo:resnet | train(epochs=5)' mnist5k --promise 'accuracy >= base - 0.01'" in shown
    assert "trimtab verify runs/x/bundle mnist5k --against 'zoo:resnet | train(epochs=5)'" in shown


def test_the_command_that_repeats_the_verdict_says_what_is_not_usual():
    usual = "trimtab trim zoo:resnet mnist5k --on here --confidence 0.95"
    assert "--on" not in verify_command(result() | {"command": usual})
    asked = "trimtab trim zoo:resnet mnist5k --on 'ssh:a b' --confidence 0.999 --trust"
    said = verify_command(result() | {"command": asked, "confidence": 0.999})
    assert said.endswith("--confidence 0.999 --on 'ssh:a b' --trust")
    assert verify_command(result() | {"command": "a quote ' that does not close"}) == verify_command(result())


def verify_command(document) -> str:
    [line] = re.findall(r"trimtab verify [^\n]*?(?=<)", page(document))
    return html.unescape(line)


@pytest.mark.parametrize(("confidence", "said"), [(0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%")])
def test_a_confidence_is_not_rounded(confidence, said):
    assert f"at {said} confidence" in page(result() | {"confidence": confidence})


def test_pictures_and_columns_have_names_for_those_who_do_not_see_them():
    read = Reader(page(result()))
    for tag, attributes in read.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")
        if tag == "th":
            assert attributes.get("scope")
    assert all(math.isfinite(value) for value in read.numbers("x", "y", "cx", "cy", "r"))


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "report.html"
    target.write_text("before")
    monkeypatch.setattr(Path, "replace", lambda self, other: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match=r"report\.html: No space left"):
        write_page(result(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "before"


def test_a_lone_surrogate_can_be_written(tmp_path: Path):
    written = write_page({"sentence": HOSTILE}, tmp_path / "report.html")
    assert written.read_bytes().startswith(b"<!doctype html>")
