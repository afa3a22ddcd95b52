import re

import pytest

from trimtab.report import progress


@pytest.fixture
def told(monkeypatch, capsys):
    """Return a function that lets seconds pass, does a step, and returns what was said."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    live = progress.Live()

    def doing(seconds, what, share=None):
        clock[0] += seconds
        live.doing(what, share)
        return capsys.readouterr().err.strip()

    return doing


def test_a_step_tells_how_long_it_has_to_go_at_its_own_pace(told):
    assert told(0, "epoch 1, loss 3", 0.0) == "epoch 1, loss 3"
    assert told(4, "epoch 1, loss 2", 0.1) == "", "the same kind of work, a moment later"
    assert told(6, "epoch 1, loss 1", 0.1) == "epoch 1, loss 1, 1 min 30 s to go"
    assert told(10, "epoch 2, loss 1", 0.4) == "epoch 2, loss 1, 30 s to go"
    assert told(1, "exporting main", 0.0) == "exporting main", "another step starts anew"
    assert told(9, "exporting decoder", 0.5) == "exporting decoder, 9.0 s to go"


def test_where_the_share_is_not_known_nothing_is_guessed(told):
    assert told(0, "reading") == "reading"
    assert told(60, "reading") == "reading"
    assert told(0, "training", 0.5) == "training"
    assert not re.search("to go", told(60, "training", 0.5)), "no progress, no pace"
