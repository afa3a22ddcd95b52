from itertools import pairwise

import pytest

from trimtab.fit.settings import Settings, rate


def test_warm_up_rises_and_cosine_ends_near_zero():
    settings = Settings(warmup=0.2)
    rates = [rate(settings, step, 100) for step in range(100)]
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[20] == 1.0
    assert all(a >= b for a, b in pairwise(rates[20:]))
    assert rates[-1] < 0.001


def test_step_schedule_falls_at_half_and_three_quarters():
    settings = Settings(schedule="step", warmup=0.0)
    assert [rate(settings, step, 8) for step in (0, 3, 4, 5, 6, 7)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_schedule_and_more_warm_up_than_steps():
    assert {rate(Settings(schedule="constant", warmup=0.0), step, 5) for step in range(5)} == {1.0}
    assert [rate(Settings(warmup=1.0), step, 2) for step in range(2)] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimizer": "adam"}, "adamw, sgd"),
        ({"schedule": "linear"}, "cosine, step, constant"),
        ({"epochs": 0}, "epochs is above 0"),
        ({"lr": -1.0}, "lr is above 0"),
        ({"lr": float("nan")}, "lr is above 0"),
        ({"alpha": 1.5}, "alpha is from 0 to 1"),
        ({"weight_decay": -0.1}, "at least 0"),
        ({"features": -1.0}, "features is at least 0"),
        ({"precision": "fp16"}, "fp32, bf16"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Settings(**wrong)
