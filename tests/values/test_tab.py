"""The tab: appended, locked, and whole but for a last line torn by a kill."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import Busy, CorruptFile, OutputError
from trimtab.values.figure import Figure
from trimtab.values.tab import TAB_FILE, Tab, read_tab


def test_records_come_back_in_order(tmp_path):
    with Tab.open(tmp_path) as tab:
        tab.append("candidate", recipe="a")
        tab.append("note", text="between")
        tab.append("candidate", recipe="b")
        assert [record["recipe"] for record in tab.read().of("candidate")] == ["a", "b"]


def test_one_writer_at_a_time(tmp_path):
    with Tab.open(tmp_path), pytest.raises(Busy, match="in use by another"), Tab.open(tmp_path):
        pass
    with Tab.open(tmp_path) as tab:
        tab.append("note")


def test_a_tab_cut_anywhere_loses_at_most_its_last_record(tmp_path):
    path = tmp_path / TAB_FILE
    with Tab.open(tmp_path) as tab:
        for number in range(3):
            tab.append("candidate", number=number)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        with Tab.open(tmp_path) as tab:
            records = tab.read()
            assert [record["number"] for record in records.of("candidate")] == list(range(complete))
            assert len(records.of("torn")) == (not whole[:cut].endswith(b"\n") and cut > 0)


def test_damage_elsewhere_names_the_line(tmp_path):
    path = tmp_path / TAB_FILE
    path.write_bytes(b'{"kind":"a"}\n{"kind:\n{"kind":"b"}\n')
    with pytest.raises(CorruptFile, match="line 2"):
        read_tab(path)


@pytest.mark.parametrize("line", ["5", "[]", "{}", '{"kind":5}', "null", "[" * 100_000])
def test_a_line_that_is_no_record_names_the_line(tmp_path, line):
    path = tmp_path / TAB_FILE
    path.write_text(f'{{"kind":"a"}}\n{line}\n')
    with pytest.raises(CorruptFile, match=r"tab\.jsonl line 2 is .*; remove the folder, or choose another --out"):
        read_tab(path)


def test_what_is_not_a_number_cannot_go_on_the_tab(tmp_path):
    with Tab.open(tmp_path) as tab, pytest.raises(ValueError, match="JSON"):
        tab.append("candidate", latency=float("nan"))


def test_a_run_folder_that_is_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), Tab.open(tmp_path / "file"):
        pass


@given(st.floats(allow_nan=False), st.none() | st.floats(allow_nan=False), st.integers(1, 9))
def test_figures_read_back(value, low, n):
    figure = Figure("latency_ms", value, "ms", low=low, n=n, conditions={"batch": 1})
    assert Figure.from_json(figure.to_json()) == figure
