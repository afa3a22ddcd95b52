import pytest

from trimtab.fit.effort import precision_of, step_seconds, steps_worth
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine

MACHINE = Machine("m", 4, (), peak_gflops={"fp32": 400.0})


def test_a_step_by_hand():
    facts = Facts("torch", 1, 10_000_000, {"conv": 3, "norm": 2}, cut=0.5)
    products = 16 * 6 * 1e7 / 50e9
    assert step_seconds(facts, MACHINE, 16) == pytest.approx(products + 5 * 0.0003)
    taught = step_seconds(facts, MACHINE, 16, taught=True)
    assert taught == pytest.approx(16 * (6 * 1e7 + 2 * 2e7) / 50e9 + 5 * 0.0003)
    assert step_seconds(facts, MACHINE, 16, precision="bf16") < step_seconds(facts, MACHINE, 16)
    assert step_seconds(facts, Machine("unknown", 1), 16) == 0.0


def test_offers_are_the_same_for_facts_that_differ_by_noise():
    for seconds in (0.02, 0.3, 2.0):
        assert steps_worth(seconds) == steps_worth(seconds * 1.05)
    assert steps_worth(0.0) == (512, 1024, 4096)
    assert steps_worth(3.0) == (16, 64)


def test_bf16_only_where_the_processor_has_it_and_the_net_is_large():
    modern = Machine("m", 1, ("avx512_bf16",))
    large, small = Facts("torch", 1, 10**8), Facts("torch", 1, 10**6)
    found = [precision_of(facts, machine) for facts in (large, small) for machine in (modern, MACHINE)]
    assert found == ["bf16", "fp32", "fp32", "fp32"]
