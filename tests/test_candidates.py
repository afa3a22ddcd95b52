"""Predictions before any work is done: what is offered, what is expected of it, and how measuring corrects it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.candidates import Candidate, Predictor, candidates, cuts, expect, fitted, further, improvement, normal_cdf
from trimtab.recipe import Bound, bind
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from workbench import Narrow, Stem, quick

__all__ = ["quick"]
FACTS = Facts("null", 195, 192, {"linear": 1}, weight_bits=64)
TORCH = Facts("torch", 200_000, 5_000_000, {"linear": 2, "conv": 3})
costs, spreads = st.floats(0.01, 100), st.floats(0.05, 2)


@given(costs, spreads, st.floats(0.01, 100))
def test_the_expected_improvement_is_the_mean_of_what_is_gained(median, spread, best):
    draws = np.log(median) + spread * np.random.default_rng(0).standard_normal(20_000)
    gains = np.maximum(math.log(best) - draws, 0)
    wanted, error = gains.mean(), gains.std() / math.sqrt(len(gains))
    assert improvement((median, spread), best) == pytest.approx(wanted, abs=6 * error + 1e-4)


@given(costs, costs, spreads, st.floats(0.01, 100))
def test_it_grows_as_the_cost_falls_and_is_never_negative(one, two, spread, best):
    cheap, dear = sorted((one, two))
    assert improvement((cheap, spread), best) >= improvement((dear, spread), best) - 1e-12
    assert improvement((dear, spread), best) >= 0


@given(costs, spreads, spreads, st.floats(0.01, 100))
def test_it_grows_with_doubt(median, one, two, best):
    sure, unsure = sorted((one, two))
    assert improvement((median, unsure), best) >= improvement((median, sure), best) - 1e-12


@given(st.floats(-30, 30))
def test_the_normal_distribution_function(z):
    assert normal_cdf(z) + normal_cdf(-z) == pytest.approx(1)
    assert 0 <= normal_cdf(z) <= normal_cdf(z + 0.1) <= 1


def test_every_chain_is_offered_once_and_the_base_is_not(machine):
    names = [candidate.name for candidate in candidates(FACTS, machine)]
    assert {"narrow @ null", "narrow(bits=32) @ null", "narrow(bits=8) @ null"} == set(names)
    assert len(names) == len(set(names))
    torch = [candidate.name for candidate in candidates(TORCH, machine)]
    assert len(torch) == len(set(torch)) > 20
    assert not [name for name in torch if name.startswith("@ torch")]


def test_without_training_a_graph_may_still_read_smaller_images(machine):
    images = Facts("onnx", 1000, 10**8, {"conv": 9}, operations_by={"conv": 10**8})
    names = [candidate.name for candidate in candidates(images, machine, train=False)]
    assert any(name.startswith("downscale(scale=0.7)") for name in names)


def test_without_training_only_passes_that_fit_nothing_are_offered(machine):
    found = list(candidates(TORCH, machine, train=False))
    assert found
    assert {step.stage for each in found for step in each.bound.passes} <= {"export", "graph", "precision"}
    assert {each.structure for each in found} == {""}


def test_what_was_cut_and_recovered_can_be_cut_once_more_in_the_same_way(machine):
    trained = bind("prune(ratio=0.8) | distill(steps=64)").passes
    found = list(further(trained, TORCH, machine, deeper=True))
    assert len({one.name for one in found}) == len(found) > 20
    once = expect(Bound(trained, None), TORCH, machine).facts
    for one in found:
        assert one.bound.passes[:2] == trained
        deeper = len(cuts(one.bound.passes)) == 2
        assert one.facts.operations < once.operations if deeper else one.facts.quality_loss < once.quality_loss
        assert one.facts == expect(one.bound, TORCH, machine).facts
        assert {step.name() for step in one.bound.passes if step.stage in ("structure", "recover")} == {
            "prune",
            "distill",
        }
    assert {"prune distill prune", "prune distill distill", "prune distill prune distill"} == {
        " ".join(step.name() for step in fitted(one.bound.passes)) for one in found
    }
    twice = bind("prune(ratio=0.8) | distill(steps=64) | distill(steps=512)").passes
    assert not list(further(twice, TORCH, machine, deeper=False)), "a third time wins nothing"
    assert all(len(cuts(one.bound.passes)) == 2 for one in further(twice, TORCH, machine, deeper=True))
    longer = {one.structure for one in further(trained, TORCH, machine, deeper=False)}
    assert longer == {one.structure for one in found if len(cuts(one.bound.passes)) == 1}


def test_a_users_recipe_is_predicted_step_by_step(machine):
    found = expect(bind("stem(bits=16) | narrow(bits=8) @ null"), FACTS, machine)
    assert (found.facts.weight_bits, found.structure) == (8.0, "stem(bits=16)")
    assert found.name == "stem(bits=16) | narrow(bits=8) @ null"


def one(delay: float, *passes) -> Candidate:
    facts = FACTS
    for step in passes:
        facts = step.predict(facts, None)
    return Candidate(Bound(tuple(passes), bind(f"@ null(delay_ms={delay})").runtime), facts)


def latency(value: float) -> dict[str, Figure]:
    return {"latency_ms": Figure("latency_ms", value, "ms")}


def test_a_prediction_has_an_interval_and_says_what_it_is(machine):
    figures = Predictor(machine, FACTS).figures(one(2.0))
    assert figures["latency_ms"].value == 2.0
    assert figures["latency_ms"].low < 2.0 < figures["latency_ms"].high
    assert {figure.origin for figure in figures.values()} == {"predicted"}
    assert figures["size_mb"].value == pytest.approx(FACTS.size_mb)


def test_measured_latencies_correct_the_like_most_and_narrow_the_doubt(machine):
    predictor = Predictor(machine, FACTS)
    before = predictor.figures(one(2.0))["latency_ms"]
    for _ in range(3):
        predictor.learn(one(2.0), latency(3.0), None)
    same, kin, other = (predictor.figures(each)["latency_ms"] for each in (one(2.0), one(2.0, Narrow(8)), one(7.0)))
    assert same.value == pytest.approx(3.0, rel=0.05)
    assert same.high / same.low < before.high / before.low
    factors = [same.value / 2.0, kin.value / 2.0, other.value / 7.0]
    assert factors[0] == max(factors)
    assert min(factors) > 1.1
    assert other.high / other.low > same.high / same.low


def test_a_runtime_that_predicts_nothing_is_expected_to_be_like_the_base(machine):
    predictor = Predictor(machine, FACTS, base_latency_ms=5.0)
    figure = predictor.figures(one(0.0))["latency_ms"]
    assert figure.value == 5.0
    predictor.learn(one(0.0), latency(1.0), None)
    assert predictor.figures(one(0.0))["latency_ms"].value == 5.0


@pytest.mark.slow
@given(st.lists(st.floats(-0.02, 0.05), min_size=1, max_size=5))
def test_losses_are_learnt_by_structure(losses):
    predictor = Predictor(None, FACTS)
    stem = one(1.0, Stem(16))
    prior, doubt = predictor.loss(stem)
    for loss in losses:
        predictor.learn(stem, latency(1.0), loss)
    learnt, left = predictor.loss(stem)
    assert abs(learnt - np.mean(losses)) <= 0.3 * abs(prior - np.mean(losses)) + 1e-9
    assert left <= doubt


def test_what_a_first_cut_lost_is_expected_of_those_that_go_on_from_it(machine):
    served = "onnx @ onnxruntime"
    chains = ["prune(ratio=0.8) | distill(steps=64)", "prune(ratio=0.7) | distill(steps=512)"]
    on, elsewhere = (
        expect(bind(f"{one} | prune(ratio=0.5) | distill(steps=64) | {served}"), TORCH, machine) for one in chains
    )
    predictor = Predictor(machine, TORCH)
    before = [predictor.loss(one)[0] for one in (on, elsewhere)]
    predictor.learn(expect(bind(f"{chains[0]} | {served}"), TORCH, machine), latency(1.0), 0.05)
    falls = [old - predictor.loss(one)[0] for one, old in zip((on, elsewhere), before, strict=True)]
    assert falls[0] > falls[1] > 0, "it lost far less than was predicted"


def test_a_dropped_candidate_is_believed_less_than_one_scored_in_full():
    known = []
    for figures in (latency(1.0), {}):
        predictor = Predictor(None, FACTS)
        predictor.learn(one(1.0, Stem(16)), figures, 0.05)
        known.append(predictor.loss(one(1.0, Stem(16)))[0])
    assert known[0] > known[1] > FACTS.quality_loss


def test_a_loss_read_on_few_examples_is_believed_less():
    known = []
    for error in (0.0, 0.02):
        predictor = Predictor(None, FACTS)
        predictor.learn(one(1.0, Stem(16)), latency(1.0), 0.05, error)
        known.append(predictor.loss(one(1.0, Stem(16))))
    (near, sure), (far, unsure) = known
    assert near > far > FACTS.quality_loss
    assert sure < unsure


def test_candidates_predicted_together_are_predicted_as_one_by_one(machine):
    together, alone = Predictor(machine, FACTS), Predictor(machine, FACTS)
    found = list(candidates(FACTS, machine))
    for predictor in (together, alone):
        predictor.learn(one(2.0), latency(3.0), 0.01)
    together.prepare(found)
    for candidate in found:
        assert together.figures(candidate) == alone.figures(candidate)


def test_facts_of_other_formats_offer_nothing(machine):
    assert list(candidates(replace(FACTS, format="unheard-of"), machine)) == []


def test_a_chain_that_ruined_a_model_does_not_condemn_its_steps(machine):
    """One of them alone may still be worth a try."""
    predictor = Predictor(machine, TORCH)
    both = expect(bind("prune(ratio=0.5) | distill(steps=512) | onnx | quantize @ onnxruntime"), TORCH, machine)
    alone = expect(bind("onnx | quantize @ onnxruntime"), TORCH, machine)
    before = predictor.loss(alone)
    predictor.learn(both, latency(1.0), 1.0)
    assert predictor.loss(alone) == before
    predictor.learn(both, latency(1.0), 0.02)
    assert predictor.loss(alone) != before
    loss, doubt = predictor.loss(alone)
    assert loss < 0.05
    assert doubt < before[1]


def test_a_net_cut_less_deep_than_a_good_one_is_expected_to_lose_less_even_after_a_deeper_one_was_ruined(machine):
    def cut(ratio):
        return expect(bind(f"prune(ratio={ratio}) | distill(steps=512) | onnx @ onnxruntime"), TORCH, machine)

    predictor = Predictor(machine, TORCH)
    predictor.learn(cut(0.8), latency(1.0), 0.002, 0.005)
    predictor.learn(cut(0.95), {}, 0.3)
    losses = [predictor.loss(cut(ratio))[0] for ratio in (0.5, 0.7, 0.8, 0.9)]
    assert losses == sorted(losses)
    assert losses[3] > 2 * losses[2], "one of those in between may be as bad"


def test_no_net_is_expected_to_gain_more_than_one_did(machine):
    predictor = Predictor(machine, TORCH)
    for ratio in (0.5, 0.7):
        seen = expect(bind(f"prune(ratio={ratio}) | distill(steps=512) | onnx @ onnxruntime"), TORCH, machine)
        predictor.learn(seen, latency(1.0), -0.02)
    bare = expect(bind("prune(ratio=0.7) | onnx @ onnxruntime"), TORCH, machine)
    assert predictor.loss(bare)[0] >= -0.02


def test_another_form_of_a_net_that_was_ruined_is_not_hoped_for(machine):
    predictor, cut = Predictor(machine, TORCH), "prune(ratio=0.9)"
    seen, other = (
        expect(bind(f"{cut} | {form} @ onnxruntime"), TORCH, machine) for form in ("onnx", "onnx | simplify")
    )
    before = predictor.loss(other)[1]
    predictor.learn(seen, {}, 0.3)
    loss, doubt = predictor.loss(other)
    assert loss > 10 * doubt
    assert doubt < before / 10
