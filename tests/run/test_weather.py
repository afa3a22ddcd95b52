import psutil

from trimtab.run import weather
from trimtab.run.weather import counters, steal_share


def test_counters_run_on_and_steal_is_a_share_of_what_passed():
    first, second = counters(), counters()
    assert first["load_average"] >= 0
    assert 0 <= first["steal_s"] <= first["total_s"] <= second["total_s"]
    assert abs(second["total_s"] - sum(psutil.cpu_times()[:8])) < 0.01 * second["total_s"]
    later = {"total_s": first["total_s"] + 9, "steal_s": first["steal_s"] + 1}
    assert abs(steal_share(first, later) - 1 / 9) < 1e-9
    assert steal_share(first, first) == 0


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(weather, "STAT", tmp_path / "none")
    assert counters()["total_s"] == counters()["steal_s"] == 0
    assert steal_share(counters(), counters()) == 0
