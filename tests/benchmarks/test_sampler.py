"""The replay of recorded runs: a finished run of null models, searched again from its tab alone."""

import json
import sys
from types import ModuleType

import pytest

import tabs
from trimtab.values.tab import read_tab
from workbench import finished_run, quick

__all__ = ["quick"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of the run; the tab goes into a temporary folder."""
    monkeypatch.setattr(tabs, "TABS", tmp_path / "tabs")
    monkeypatch.delitem(sys.modules, "sampler", raising=False)
    return finished_run().bundle.parent


def test_our_search_chooses_among_the_recorded_candidates(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", ModuleType("optuna"))  # ours needs nothing of it
    import sampler

    recorded = sampler.read(run)
    order = list(sampler.ours(recorded, 0))
    took = [record["recipe"] for record in read_tab(run / "tab.jsonl").of("candidate")]
    assert set(recorded.trials) == set(took)
    assert order[0] == took[0]
    assert set(order) <= set(took)
    assert 0 < sampler.share_needed(recorded, iter(order)) < 1


def test_every_sampler_has_a_line_on_the_tab(run, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    import sampler

    monkeypatch.setattr(sampler, "SEEDS", 2)
    assert sampler.main([str(run)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "tabs" / "sampler.jsonl").read_text().splitlines()]
    assert [line["group"] for line in lines] == ["trimtab", *sampler.OPTUNA]
    assert all(line["workload"] == run.name and 0 < line["low"] <= line["value"] <= line["high"] for line in lines)
    assert lines[0]["value"] < 1
