"""Serving takes what its weights, keys and values take, and limits are kept."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import UsageError
from trimtab.plan import chips, models
from trimtab.plan.serving import Serving
from trimtab.plan.servings import ServeOrder, plan_serving

LLAMA, MOE = models.named("llama3:8b"), models.named("mixtral:8x7b")
H100, L4 = chips.load("h100-sxm-80gb"), chips.load("l4-24gb")


def test_a_lone_token_takes_the_time_to_read_the_weights():
    job = Serving(LLAMA, H100, prompt=128, output=128)
    least = job.weight_bytes / (H100.bandwidth_gbs * 1e9)
    assert least < job.step_s() < 2 * least


def test_keys_and_values_of_a_token():
    """Llama 3 8B: 32 layers x 2 x 8 heads x 128 numbers x 2 bytes = 128 KiB."""
    assert Serving(LLAMA, H100, 1, 1).token_bytes == 128 * 1024
    assert Serving(LLAMA, H100, 1, 1, tp=8).token_bytes == 16 * 1024
    deepseek = Serving(models.named("deepseek:v3"), H100, 1, 1)
    assert deepseek.token_bytes == 61 * (512 + 64) * 2


def test_a_lone_token_of_a_mixture_reads_few_experts():
    one, many = Serving(MOE, H100, 16, 16, batch=1, tp=2), Serving(MOE, H100, 16, 16, batch=256, tp=2)
    assert one.step_s() < 0.6 * many.step_s()
    assert one.busy[1] <= 1
    assert many.busy[0] > one.busy[0]


@settings(max_examples=30, deadline=None)
@given(
    prompt=st.integers(16, 8192), output=st.integers(1, 4096), batch=st.integers(1, 512), tp=st.sampled_from([1, 2, 4])
)
def test_more_takes_longer(prompt, output, batch, tp):
    job = Serving(LLAMA, H100, prompt, output, batch, tp)
    assert job.first_token_s <= job.waiting_s
    assert replace(job, batch=batch + 1).step_s() >= job.step_s()
    assert replace(job, prompt=2 * prompt).first_token_s > job.first_token_s
    assert replace(job, batch=2 * batch).tokens_per_s > job.tokens_per_s * 0.99
    assert replace(job, weights="fp8").weight_bytes < job.weight_bytes
    assert all(0 <= share <= 1 for share in job.busy)


def test_a_lone_sequence_waits_for_no_other_prompt():
    job = Serving(LLAMA, H100, prompt=8192, output=16)
    assert job.token_s == job.step_s()
    assert job.tokens_per_s < 1 / job.token_s, "its own prompt is read before"


def test_a_request_that_is_served_alone_waits_for_its_prompt_only():
    alone = Serving(LLAMA, H100, 1024, 128)
    assert alone.waiting_s == pytest.approx(alone.first_token_s)
    assert replace(alone, batch=2).waiting_s > 1.1 * alone.waiting_s


def test_cards_of_one_host_serve_together_what_one_cannot_hold():
    found = plan_serving(ServeOrder(models.named("llama2:70b"), weights="fp8"), [chips.load("l40s-48gb")])
    assert {plan["count"] for plan in found["plans"]} <= {2, 4, 8}
    assert found["plans"]


def test_limits_are_kept_and_reasons_told():
    found = plan_serving(
        ServeOrder(LLAMA, ttft_s=0.5, tpot_s=0.03), [H100, replace(L4, link_chips=1), chips.load("xeon-8480")]
    )
    assert {plan["chip"] for plan in found["plans"]} == {"h100-sxm-80gb"}
    assert all(plan["figures"]["tpot_ms"]["value"] <= 30 for plan in found["plans"])
    assert {one["chip"]: one["why"] for one in found["rejected"]}["xeon-8480"].startswith("a host processor")
    assert "times what is allowed" in {one["chip"]: one["why"] for one in found["rejected"]}["l4-24gb"]
    assert found["pareto"]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (ServeOrder(LLAMA, tpot_s=1e-4), "each token takes"),
        (ServeOrder(models.named("gpt:175b"), tp=1), "GiB a chip for one sequence"),
        (ServeOrder(LLAMA, tp=3), "tp=3 does not divide the 32 heads"),
    ],
)
def test_what_cannot_be_served_is_said(order, message):
    with pytest.raises(UsageError, match=message):
        plan_serving(order, [H100])


def test_weights_of_four_bits_are_read_sooner_where_products_stay_in_sixteen():
    whole, packed = Serving(LLAMA, H100, 512, 128), Serving(LLAMA, H100, 512, 128, weights="fp4")
    assert packed.products == "bf16"
    assert packed.token_s < 0.5 * whole.token_s
    assert packed.first_token_s == pytest.approx(whole.first_token_s, rel=0.15)
    assert packed.memory_bytes < 0.4 * whole.memory_bytes


def test_sequences_that_memory_cannot_hold_wait_for_their_turn():
    big = models.named("llama3:70b")
    few, many = (Serving(big, chips.load("h200"), 1024, 8192, batch, weights="fp8") for batch in (8, 128))
    assert few.slots == 8
    assert 8 < many.slots < 128
    assert many.token_s == pytest.approx(replace(many, batch=round(many.slots)).token_s, rel=0.03)
    assert many.waiting_s > 0.5 * many.output * many.token_s
    assert many.busy[1] <= 1


def test_steps_that_read_no_prompt_are_the_shorter_ones():
    job = Serving(LLAMA, H100, 1024, 512, batch=64)
    assert job.step_s() < job.token_s < job.step_s(job.prompt)
    assert Serving(LLAMA, H100, 1024, 1, batch=64).token_s > job.step_s(job.prompt)


@given(st.sampled_from([2, 4, 8]), st.floats(1, 1e5))
def test_an_all_reduce_never_gets_shorter_with_more_to_send(tp, tokens):
    job = Serving(LLAMA, H100, 512, 128, tp=tp)
    assert 0 < job._talk_s(tokens) <= job._talk_s(2 * tokens) <= 2 * job._talk_s(tokens)


def test_numbers_are_checked():
    with pytest.raises(UsageError, match="from 1 on"):
        Serving(LLAMA, H100, 0, 1)
    with pytest.raises(UsageError, match="does not divide"):
        Serving(LLAMA, H100, 1, 1, tp=3)
