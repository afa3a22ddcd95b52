"""The planner is held against published tables: their tab is not stale, goals hold, and bad tables are told."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from trimtab.errors import DataError
from trimtab.plan import intervals
from trimtab.plan.evidence import Case, Skipped, modules, read, whole
from trimtab.plan.validate import TABLES, validate

TAB = Path(__file__).resolve().parents[2] / "benchmarks" / "tabs" / "validation.jsonl"
SLOW = "scaling_"
"""Tables whose laws take seconds to fit; the tab's own program does them."""


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """All tables but the slow ones."""
    folder = tmp_path_factory.mktemp("tables")
    for path in TABLES.glob("*.csv"):
        if not path.name.startswith(SLOW):
            shutil.copy(path, folder)
    return validate(folder)


def recorded():
    return [json.loads(line) for line in TAB.read_text().splitlines()]


@pytest.mark.slow
def test_the_tab_is_what_the_code_says(few):
    """`python benchmarks/validation.py` writes it anew."""
    told = {(line["group"], line["name"]): line["value"] for line in recorded()}
    for one in few["tables"]:
        for name in ("median_ape", "max_ape", "bias"):
            assert told[one["table"], name] == pytest.approx(one[name], abs=1e-9), one["table"]


GOALS = {
    "train_megatron_2021_table1": 0.05,
    "train_megatron_2021_table2_zero3:tp_pp": 0.05,
    "train_megatron_2021_table2_zero3:zero3": 0.15,
    "train_vtrain_singlenode": 0.10,
    "train_mpt_llmfoundry": 0.06,
    "train_torchtitan": 0.06,
    "train_maxtext_tpu": 0.06,
    "train_published_runs": 0.20,
    "train_nvidia_nemo:dense": 0.10,
    "train_nvidia_nemo:moe": 0.25,
    "train_mlperf_all_rounds:resnet": 0.12,
    "train_mlperf_all_rounds:bert": 0.12,
    "train_torchtitan:memory": 0.08,
    "infer_trtllm_v061:tokens_per_s_per_gpu": 0.20,
    "infer_trtllm_v061:first_token_ms": 0.20,
    "infer_aiconfigurator_silicon:token_ms": 0.13,
    "infer_aiconfigurator_silicon:first_token_ms": 0.30,
    "energy_patterson2021": 0.08,
    "energy_mlenergy_inference": 0.15,
}


@pytest.mark.parametrize("name", GOALS)
def test_median_errors_keep_their_goals(few, name):
    found = next(one for one in few["tables"] if one["table"] == name)
    assert found["median_ape"] <= GOALS[name]
    assert found["skill"] > 0


def test_intervals_cover_what_they_say(few):
    assert 0.85 <= few["pooled"]["coverage90"] <= 0.95
    assert 0.45 <= few["pooled"]["coverage50"] <= 0.6


def test_nothing_is_skipped_in_silence(few):
    lines = sum(
        len(path.read_text().splitlines()) - 1 for path in TABLES.glob("*.csv") if not path.name.startswith(SLOW)
    )
    assert sum(one["scored"] for one in few["tables"]) + sum(few["not_scored"].values()) >= lines * 0.99
    assert all(one["rows"] == one["scored"] + sum(one["not_scored"].values()) for one in few["tables"])
    json.dumps(few, allow_nan=False)


def test_every_module_reads_its_tables():
    known = {name for module in modules() for name in module.FILES}
    assert known <= {path.name for path in TABLES.glob("*.csv")}
    found = [one for _, one in read(TABLES, ["train_korthikanti"])]
    assert all(isinstance(one, Case) for one in found)
    assert whole("64 (0)") == 64
    assert whole("n/a", 3) == 3


def copied(tmp_path, name, change):
    path = tmp_path / name
    path.write_text(change((TABLES / name).read_text()))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train_korthikanti_2022.csv", lambda text: text.replace("iter_time_s,", "iteration,"), "lacks the column"),
        (
            "train_vtrain_singlenode.csv",
            lambda text: "\n".join(text.replace("158.717599", "fast").splitlines()[:2]),
            "line 2: could not convert",
        ),
        ("train_vtrain_singlenode.csv", lambda text: text.replace("hidden,", "width,", 1), "lacks the column 'hidden'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, name, change, message):
    with pytest.raises(DataError, match=message):
        validate(copied(tmp_path, name, change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("158.717599", "fast"), "line 2: could not convert string to float: 'fast'"),
        (lambda text: text.replace("158.717599", "0"), "line 2: .* measured 0.0"),
        (lambda text: text.replace("158.717599", ""), "line 2: could not convert"),
        (lambda text: text.replace("158.717599", "nan"), "line 2: .* measured nan"),
        (lambda text: text + "4,A100\n", "line 322: invalid literal"),
    ],
)
def test_a_row_that_cannot_be_read_is_not_scored_and_its_line_is_told(tmp_path, change, reason):
    folder = copied(tmp_path, "train_vtrain_singlenode.csv", change)
    found = list(read(folder))
    (skipped,) = [case.reason for _, case in found if isinstance(case, Skipped)]
    assert re.search(reason, skipped)
    assert len(found) >= 320


def table(tmp_path, name, **cells):
    """Write the first row of a table, some of its cells changed."""
    with (TABLES / name).open(newline="") as file:
        row = next(csv.DictReader(file)) | cells
    with (tmp_path / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    return [case for _, case in read(tmp_path, [name])]


def test_a_pipelined_row_of_torchtitan_has_as_many_micro_batches_as_stages(tmp_path):
    cells = {"model": "Llama3.1-405B", "gpus": "512", "fsdp": "8", "tp": "8", "pp": "8", "local_batch": "32"}
    cells |= {"act_ckpt": "full", "torch_compile": "1", "float8": "1", "tokens_per_s_per_gpu": "100"}
    plain, memory = table(tmp_path, "train_torchtitan.csv", **cells, pp_schedule="1F1B", peak_mem_gib="82.5")
    quicker, _ = table(tmp_path, "train_torchtitan.csv", **cells, pp_schedule="Interleaved 1F1B", peak_mem_gib="72.7")
    assert 70 < plain.predicted < quicker.predicted < 200
    assert memory.predicted < 100
    (strange,) = table(tmp_path, "train_torchtitan.csv", act_ckpt="some of it")
    assert strange.reason == "recomputation 'some of it' is not known"


def test_formats_of_numbers_are_read(tmp_path):
    def rate(name, **cells):
        return table(tmp_path, name, **cells)[0]

    mpt, titan = "train_mpt_llmfoundry.csv", "train_torchtitan.csv"
    assert rate(mpt, precision="amp_fp8").predicted > 1.1 * rate(mpt).predicted
    assert rate(titan, float8="mxfp8").predicted == rate(titan, float8="float8 tensorwise").predicted
    assert rate("train_nvidia_nemo.csv", precision="NVFP4").reason == "precision 'NVFP4' is not known"
    assert rate("train_nvidia_nemo.csv", fsdp="1").regime == "sharded-megatron-core"
    assert rate("train_nvidia_nemo.csv", fsdp="0").regime != "sharded-megatron-core"


def test_chips_that_are_linked_beyond_their_node_are_so_in_mlperf(tmp_path):
    cells = {"division": "closed", "benchmark": "bert", "nodes": "16", "accel_per_node": "4", "host_net": ""}
    cells |= {"global_batch_size": "4096"}
    found = [
        table(tmp_path, "train_mlperf_all_rounds.csv", **cells, accelerator=name)[0].predicted
        for name in ("TPU-v5p", "NVIDIA GB200")
    ]
    assert all(minutes < 3 for minutes in found)


def test_watts_that_are_not_known_are_not_scored(tmp_path):
    (found,) = table(tmp_path, "energy_patterson2021.csv", processor="TPU v5p")
    assert found.reason == "the watts of tpu-v5p are not known"


def test_no_tables(tmp_path):
    with pytest.raises(DataError, match="no tables"):
        validate(tmp_path)
    with pytest.raises(DataError, match="no folder of tables"):
        validate(tmp_path / "none")


def test_rows_of_unknown_chips_are_counted(tmp_path):
    folder = copied(tmp_path, "train_mpt_llmfoundry.csv", lambda text: text.replace("h100_80gb", "x900_80gb"))
    (folder / "other.csv").write_text("a,b\n1,2\n")
    found = validate(folder)
    assert "no chip x900_80gb" in found["not_scored"]
    assert found["not_scored"]["other.csv holds no quantity that is planned"] == 1
    unscored = {one for _, one in read(folder) if isinstance(one, Skipped)}
    assert len(unscored) == 2


def test_other_sizes_and_chips_of_maxtext_are_read(tmp_path):
    head = "accelerator,slices,chips_per_slice,chips,model,precision,seq_len,tflops_per_chip,note"
    rows = (
        "TPU-v5p,1,64,64,64B dense,bf16,2048,300,",
        "TPU-v6e,1,256,256,LLAMA2-70B,bf16,4096,400,per_device_batch 2",
        "TPU-v5e,1,256,256,48B dense,bf16,2048,110,",
        "TPU-v4,1,64,64,some dense,bf16,2048,110,",
        "TPU-v4,1,64,64,22B dense,bf16,2048,,",
    )
    (tmp_path / "train_maxtext_tpu.csv").write_text("\n".join([head, *rows]))
    found = [case for _, case in read(tmp_path)]
    assert [case.label for case in found[:2]] == ["64B dense on 64 tpu-v5p", "LLAMA2-70B on 256 tpu-v6e"]
    assert all(0.4 < case.predicted / case.ideal < 0.9 for case in found[:2])
    assert [case.reason for case in found[2:]] == [
        "no shape is known of MaxText's 48B",
        "no architecture some dense",
        "MaxText's row does not tell its operations a second",
    ]


def test_a_whole_run_that_does_not_tell_its_hours_is_left_out(tmp_path):
    folder = copied(tmp_path, "train_published_runs.csv", lambda text: text.replace(",82432,", ",,"))
    reasons = [one.reason for _, one in read(folder) if isinstance(one, Skipped)]
    assert reasons.count("a run that does not tell its hours") == 1


def test_intervals():
    low, high = intervals.around(100.0, "pipeline")
    inner = intervals.around(100.0, "pipeline", confidence=50)
    assert low < inner[0] < inner[1] < high
    widest = intervals.around(100.0, "no such regime")
    assert widest[1] - widest[0] >= high - low
    both = intervals.around(100.0, "pipeline", "watts-training")
    assert both[1] - both[0] >= high - low
    with pytest.raises(ValueError, match="50 or 90"):
        intervals.around(1.0, "pipeline", confidence=80)
