"""Models under a machine's roof."""

from trimtab.maths.roofline import under_the_roof
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine


def test_the_roof_is_the_lower_of_rate_and_traffic():
    machine = Machine("m", cores=2, peak_gflops={"fp32": 100.0, "int8": 400.0}, bandwidth_gbs=10.0)
    dense = Facts("onnx", 1_000_000, 1_000_000_000)
    thin = Facts("onnx", 1_000_000, 1_000_000, weight_bits=8, activation_bits=8)
    points = {"base": (dense, 40.0), "chosen": (thin, 0.1), "unknown": (Facts("onnx", 0, 0), 1.0)}
    found = under_the_roof(machine, points)
    base, chosen = found["points"]
    assert found["ridge"] == {"fp32": 10.0, "int8": 40.0}
    assert (base["intensity"], base["gflops"], base["share_of_roof"]) == (500.0, 50.0, 0.5)
    assert (chosen["precision"], chosen["intensity"], chosen["gflops"]) == ("int8", 2.0, 20.0)
    assert chosen["share_of_roof"] == 1.0


def test_a_machine_of_unknown_rates_has_no_roof():
    found = under_the_roof(Machine("m", cores=1), {"base": (Facts("onnx", 10, 10), 1.0)})
    assert found["points"][0]["share_of_roof"] is None
    assert found["ridge"] == {}
