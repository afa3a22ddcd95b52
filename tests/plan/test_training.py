"""The time and the memory of a step behave as physics and the rules of layouts say."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import UnknownName
from trimtab.plan import chips, models, trainings
from trimtab.plan.layout import Layout
from trimtab.plan.memory import Memory
from trimtab.plan.rates import constants, using
from trimtab.plan.stack import STACKS, stack
from trimtab.plan.training import Training

GPT3, LLAMA = models.named("gpt:175b"), models.named("llama3:8b")
A100, H100 = chips.load("a100-sxm-80gb"), chips.load("h100-sxm-80gb")


def job(arch=GPT3, chip=A100, batch=1536, seq=2048, program="megatron-core", **layout):
    return Training(arch, chip, batch, seq, Layout(**layout), stack(program))


WHOLE = {"tp": 8, "pp": 8, "dp": 16}


def test_gpt3_on_1024_a100s_took_34_days():
    """Narayanan et al. 2021, section 5.1, an estimate from 140 TFLOP/s a chip."""
    step = job(program="megatron-2021", recompute="full", interleave=4, zero=0, sequence=False, **WHOLE)
    assert 300e9 / (1536 * 2048) * step.seconds / 86400 == pytest.approx(34, rel=0.12)


def test_zero3_falls_behind_from_768_chips_on():
    for chips_used, micro in ((768, 2), (1536, 1)):
        sharded = job(program="deepspeed-2021", recompute="full", zero=3, dp=chips_used, micro_batch=micro)
        pipeline = job(program="megatron-2021", recompute="full", zero=0, tp=8, pp=12, dp=chips_used // 96)
        assert pipeline.seconds < sharded.seconds


@pytest.mark.parametrize("name", STACKS)
def test_parts_make_the_step_and_none_is_negative(name):
    step = job(program=name, **WHOLE)
    assert step.seconds == pytest.approx(sum(step.parts.values()))
    assert min(step.parts.values()) >= 0


def test_recomputation_takes_longer_and_needs_less():
    steps = [job(recompute=kind, **WHOLE) for kind in ("none", "selective", "full")]
    assert [s.seconds for s in steps] == sorted(s.seconds for s in steps)
    plain = [
        Memory(job(program="megatron-2021", recompute=kind, **WHOLE)).total for kind in ("none", "selective", "full")
    ]
    flash = [Memory(job(recompute=kind, **WHOLE)).total for kind in ("none", "operators", "full")]
    for memories in (plain, flash):
        assert memories == sorted(memories, reverse=True)


@settings(max_examples=40, deadline=None)
@given(
    dp=st.sampled_from([1, 2, 8, 32]),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4, 8]),
    micro=st.sampled_from([1, 2]),
)
def test_a_faster_chip_is_faster_and_more_work_takes_longer(dp, tp, pp, micro):
    step = job(LLAMA, dp=dp, tp=tp, pp=pp, micro_batch=micro, batch=dp * micro * 8)
    quicker = replace(A100, matmul_tflops={"bf16": 290.0})
    assert replace(step, chip=quicker).seconds < step.seconds
    assert replace(step, batch=step.batch * 2).seconds > step.seconds
    assert replace(step, seq=4096).seconds > step.seconds
    memory = Memory(step)
    assert memory.total > Memory(replace(step, chip=A100, layout=replace(step.layout, zero=3))).parts["optimizer"]
    assert Memory(replace(step, seq=4096)).total > memory.total


def test_adam_in_mixed_precision_takes_18_bytes_a_weight():
    """Korthikanti et al. 2022, Figure 1: 45.5625 GiB of parameters and optimizer for the 22B model on 8 chips."""
    arch = models.named("gpt:22b")
    parts = Memory(job(arch, tp=8, zero=0, batch=4, micro_batch=4, program="megatron-2021")).parts
    static = (parts["weights"] + parts["gradients"] + parts["optimizer"]) / 2**30
    assert static == pytest.approx(45.5625, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["mixtral:8x7b", "deepseek:v3", "llama3:8b", "gpt:175b"]),
    dp=st.sampled_from([8, 64, 256]),
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 4, 16]),
    ep=st.sampled_from([1, 8, 64]),
    zero=st.integers(0, 3),
)
def test_all_chips_together_hold_every_weight_and_its_state(name, dp, tp, pp, ep, zero):
    arch = models.named(name)
    layout = {"dp": dp, "tp": tp, "pp": pp, "ep": ep, "zero": zero}
    step = job(arch, batch=dp, **layout)
    if any(step.layout.broken(arch, dp)):
        return
    parts, held = Memory(step).parts, step.layout.chips
    assert parts["optimizer"] * held >= 0.999 * (8 if zero == 3 else 12) * arch.parameters
    assert parts["weights"] * held >= 0.999 * 2 * arch.parameters


def test_hybrid_sharding_keeps_weights_near_and_copies_of_them_far():
    """Zhao et al. 2023, arXiv 2304.11277, section 3.2.2."""
    slow = replace(H100, network_gbs=3.0)
    whole, near = (job(LLAMA, slow, 512, dp=64, zero=3, shard=shard) for shard in (0, 8))
    assert near.parts["data-parallel talk"] < 0.5 * whole.parts["data-parallel talk"]
    assert Memory(near).parts["optimizer"] == pytest.approx(8 * Memory(whole).parts["optimizer"])
    assert job(LLAMA, slow, 512, dp=64, zero=3, shard=64).seconds == pytest.approx(whole.seconds)
    assert "shard=8" in str(near.layout)


def test_a_shard_that_was_asked_for_is_what_is_tried():
    order = trainings.Order(LLAMA, 1.0, batch=512, fixed={"shard": 8})
    assert {memory.job.layout.shard for memory in trainings.tried(order, H100, 64)} == {8}
    assert "shard=3 does not divide" in trainings.best(replace(order, fixed={"shard": 3}), H100, 64)


def test_a_sequence_that_no_chip_holds_is_shared_out():
    order = trainings.Order(models.named("llama3:8b"), 1e12, seq=1 << 20, batch=8)
    assert trainings.best(order, H100, 64).job.layout.cp > 1
    assert {memory.job.layout.cp for memory in trainings.tried(replace(order, seq=8192), H100, 64)} == {1}


BROKEN = {
    "nothing else is shared out so": {"shard": 2, "dp": 2},
    "shard=3 does not divide dp x cp": {"shard": 3, "dp": 8, "zero": 3},
    "does not divide the 96 heads": {"tp": 5},
    "more stages than the 96 layers": {"pp": 128},
    "needs pp above 1": {"interleave": 2},
    "is more than the 96 layers": {"pp": 64, "interleave": 2},
    "does not divide into": {"dp": 7},
    "needs experts, and gpt:175b has none": {"ep": 2, "dp": 2},
    "recompute is one of": {"recompute": "some"},
    "zero is at most 2": {"pp": 2, "zero": 3},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_rule_is_said_with_its_numbers(message):
    assert any(message in rule for rule in Layout(**BROKEN[message]).broken(GPT3, 1536))


def test_key_value_heads_and_tensor_parallelism_divide_each_other():
    assert not list(Layout(tp=16).broken(LLAMA, 8))
    assert "key-value heads" in next(Layout(tp=3).broken(replace(LLAMA, heads=24, kv_heads=8), 8))


def test_stacks_are_named():
    with pytest.raises(UnknownName, match="did you mean megatron-core"):
        stack("megatron-cor")


def test_a_chip_runs_its_usual_program_unless_another_is_named():
    order, tpu = trainings.Order(LLAMA, 1e12), chips.load("tpu-v5p")
    assert [order.stack(chip).name for chip in (H100, tpu)] == ["megatron-core", "xla"]
    assert replace(order, program="fsdp").stack(tpu).name == "fsdp"
    plan = trainings.best(order, tpu, 256).to_json()
    assert plan["stack"] == "xla"
    assert "zero=3" in plan["layout"]


@given(count=st.integers(1, 4096), batch=st.sampled_from([0, 100]))
def test_the_usual_batch_goes_with_any_number_of_chips(count, batch):
    order = trainings.Order(LLAMA, 1e12, batch=batch)
    shared, odd = order.on(count).sequences, count // (count & -count)
    if batch:
        assert shared == batch
    else:
        assert shared % odd == 0
        assert 0.7 <= shared / order.sequences <= 1.5 or shared == odd > order.sequences


def test_a_number_of_chips_that_is_no_power_of_two_has_a_plan():
    plan = trainings.best(trainings.Order(LLAMA, 1e12), H100, 96).to_json()
    assert (plan["count"], plan["batch"] % 3) == (96, 0)


def test_a_small_model_may_have_large_micro_batches():
    order = trainings.Order(replace(LLAMA, layers=8, hidden=1024, ffn=4096), 1e9)
    sizes = {memory.job.layout.micro_batch for memory in trainings.tried(order, H100, 8)}
    assert max(sizes) == 64
    assert max(memory.job.layout.micro_batch for memory in trainings.tried(trainings.Order(LLAMA, 1e9), H100, 8)) == 8


def test_a_whole_run_is_less_sure_than_its_steps():
    figures = trainings.best(trainings.Order(LLAMA, 1e12), H100, 64).figures()
    spread = {name: figures[name].high / figures[name].value for name in ("days", "chip_hours", "step_s")}
    assert spread["days"] == pytest.approx(spread["chip_hours"])
    assert spread["days"] > 1.2 * spread["step_s"]


def test_other_constants_can_be_used_for_a_while():
    before = job(**WHOLE).seconds
    with using(replace(constants(), product=constants().product / 2)):
        assert job(**WHOLE).seconds > before
    assert job(**WHOLE).seconds == before
