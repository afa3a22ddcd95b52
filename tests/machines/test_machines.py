import math
import subprocess
import sys

import pytest

from trimtab import machines
from trimtab.errors import DataError, UnknownName, UsageError
from trimtab.machines import _probe
from trimtab.machines._probe import Processor
from trimtab.values.machine import Machine

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
cpu MHz\t\t: 2000.000
flags\t\t: fpu sse4_2 avx2 fma avx512f avx512_vnni amx_tile amx_int8 amx_bf16

processor\t: 1
"""
NEOVERSE = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize("name", machines.names())
def test_every_machine_says_where_its_facts_come_from(name):
    machine = machines.load(name)
    assert machine.name == name
    assert 0 < machine.idle_w <= machine.full_w
    assert machine.bandwidth_gbs > 0
    assert {"fp32", "int8"} <= set(machine.peak_gflops)
    facts = {key for key, value in machine.to_json().items() if value} - {"name", "sources", "cores", "cpu"}
    assert facts - {"accelerator", "power_meter", "isa"} <= set(machine.sources)


def test_here_is_this_machine():
    here = machines.here()
    assert here.cores >= 1
    assert here.memory_gb > 0.1
    assert here.cpu
    assert here.peak_gflops["int8"] >= here.peak_gflops["fp32"] > 1
    assert Machine.from_json(here.to_json()) == here


def test_near_names_are_suggested_and_files_are_read(tmp_path):
    with pytest.raises(UnknownName, match="did you mean amd-epyc"):
        machines.load("amd-epic")
    path = tmp_path / "mine.toml"
    path.write_text("cores = 3\nusd_per_hour = 1.5\n")
    assert machines.load(str(path)) == Machine("mine", 3, usd_per_hour=1.5)
    path.write_text("core = 3\n")
    with pytest.raises(DataError, match="unknown facts core"):
        machines.load(str(path))
    with pytest.raises(DataError, match="cannot read"):
        machines.load(str(tmp_path / "absent.toml"))


def test_figures_are_measured_here_or_there_and_not_on_what_a_file_tells_of(tmp_path):
    here = machines.here()
    assert machines.measurable("here") == here
    for name in {*machines.names()} - {"here"}:
        with pytest.raises(UsageError, match=f"{name} tells of 8 cores .* --on here, --on ssh:HOST .* --dry-run"):
            machines.measurable(name)
    path = tmp_path / "mine.toml"
    path.write_text(f"cores = {here.cores}\nusd_per_hour = 1.5\nisa = {list(here.isa[:1])}\n")
    mine = machines.measurable(str(path))
    assert mine == Machine("mine", here.cores, here.isa, usd_per_hour=1.5, cpu=here.cpu)
    for other in (
        f"cores = {here.cores + 1}",
        f"cores = {here.cores}\ncpu = 'Z80'",
        f"cores = {here.cores}\nisa = ['x']",
    ):
        path.write_text(other)
        with pytest.raises(UsageError, match=f"and this machine is {here.cores} cores"):
            machines.measurable(str(path))


def test_processors_are_read_from_cpuinfo(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    xeon = _probe.processor(tmp_path)
    assert xeon.model == "Intel(R) Xeon(R) Platinum 8480+ (family 6 model 143)"
    assert xeon.isa == ("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16")
    assert _probe.family(xeon) == "intel-xeon"
    (tmp_path / "cpuinfo").write_text(NEOVERSE)
    assert _probe.processor(tmp_path).isa == ("asimd", "asimddp", "i8mm")
    assert _probe.family(_probe.processor(tmp_path)) == "generic-arm"


def test_without_cpuinfo_something_sensible_is_assumed(tmp_path):
    found = _probe.processor(tmp_path)
    assert found.mhz > 100
    assert found.isa


@pytest.mark.parametrize(
    ("model", "isa", "fp32", "int8"),
    [
        ("AMD EPYC", ("avx2", "avx512f", "avx512_vnni"), 32, 128),
        ("Intel Xeon", ("avx2", "avx512f"), 64, 128),
        ("Intel Xeon", ("avx2", "avx512f", "avx512_vnni", "amx_int8"), 64, 4096),
        ("Apple M1", ("asimd", "asimddp"), 16, 64),
    ],
)
def test_peaks_are_operations_a_cycle(model, isa, fp32, int8):
    peaks = _probe.peaks(Processor(model, isa, 1000.0), cores=3)
    assert peaks["fp32"] == 3 * fp32
    assert peaks["int8"] == 3 * int8


def group(tmp_path, line, **files):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(line)
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(("isa", "expected"), [
    (("avx2", "fma"), True), (("avx2", "avx_vnni"), False), (("avx512f", "amx_int8"), False), (("asimd",), False),
])  # fmt: skip
def test_eight_bit_products_saturate_where_there_is_avx_and_neither_vnni_nor_amx(isa, expected):
    assert Machine("m", cores=2, isa=isa).saturates is expected


def test_limits_of_control_groups_version_2(tmp_path):
    limits = {"fs__cgroup__a__cpu_dot_max": "50000 100000", "fs__cgroup__a__b__memory_dot_max": "max"}
    group(tmp_path, "0::/a/b\n", **limits, fs__cgroup__a__memory_dot_max="1000000000")
    assert _probe.cores(tmp_path, tmp_path) == 1
    assert math.isclose(_probe.memory_gb(tmp_path, tmp_path), 1.0)


def test_limits_of_control_groups_version_1(tmp_path):
    quota = {"fs__cgroup__cpu__x__cpu_dot_cfs_quota_us": "100000"}
    period = {"fs__cgroup__cpu__x__cpu_dot_cfs_period_us": "100000"}
    memory = {"fs__cgroup__memory__x__memory_dot_limit_in_bytes": "2000000000"}
    group(tmp_path, "4:cpu:/x\n9:memory:/x\n", **quota, **period, **memory)
    assert _probe.cores(tmp_path, tmp_path) == 1
    assert math.isclose(_probe.memory_gb(tmp_path, tmp_path), 2.0)


def test_accelerators_and_power_meters(tmp_path):
    assert _probe.accelerator(tmp_path) == ""
    assert _probe.power_meter(tmp_path, tmp_path) == ""
    for number in range(2):
        folder = tmp_path / f"driver/nvidia/gpus/000{number}"
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 5\n")
    assert _probe.accelerator(tmp_path) == "2 x NVIDIA H200"
    assert _probe.power_meter(tmp_path, tmp_path) == "nvml"
    (tmp_path / "class/powercap/intel-rapl:0").mkdir(parents=True)
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("12345\n")
    assert _probe.power_meter(tmp_path, tmp_path) == "rapl"


def test_probing_imports_nothing_heavy():
    code = (
        "import sys; from trimtab import machines; machines.here(); "
        "print(sorted({'numpy', 'torch', 'onnxruntime', 'pynvml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
