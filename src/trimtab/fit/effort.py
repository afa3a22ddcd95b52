"""How long a training takes on a machine, and how many steps are worth offering there.

A step does one product forward and two backward for each multiply-accumulate, two operations each: 6 x operations x
batch (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); a teacher one more forward. The share of the peak that
one thread reaches, and the cost of each layer whatever its size, were measured with small convolutional nets and a
transformer layer on two shared AMD EPYC (Zen 4) cores.
"""

from __future__ import annotations

import math

from trimtab.values.facts import Facts
from trimtab.values.machine import Machine

SHARE = 0.5
"""Of one core's fp32 peak that training reaches."""
LAYER_SECONDS = 0.0003
"""A step's cost for each layer whatever its size: calls, normalization, the optimizer."""
GAIN = {"fp32": 1.0, "bf16": 1.6}
"""Speed of a step by precision where the processor has bf16 products: 1.56 to 1.98 were measured."""
OFFERS = ((20.0, 512), (60.0, 1024), (180.0, 4096))
"""Seconds that a short, a medium and a long training may take, and the steps after which little more is won."""
FEWEST = 16
UPDATE_SECONDS = 8e-9
"""A step's cost for each parameter of an embedding: a gradient for all rows, and an optimizer that moves them all."""
STEPS_AN_EPOCH = 125
"""Of the small data sets on which recovery was seen."""
SHALLOW = 16
"""Convolutions up to which a net recovers so quickly; deeper ones take as many times more steps as they are deeper."""
SHARED = 1e8
"""Operations of a layer in a step from which sharing it out among threads pays: waking them costs about a millisecond.

On two shared cores with passive waiting, a net of 4e7 operations a layer trained 2.1 times slower with two threads than
with one, EfficientNet at 64 pixels (1e7) 1.7 times; a transformer encoder of 3e8 1.5 times faster.
"""


def step_seconds(facts: Facts, machine: Machine, batch: int, *, taught: bool = False, precision: str = "fp32") -> float:
    """Return the expected seconds of one step in one thread; 0 where the machine's peak is not known.

    `taught`: a teacher answers too; it is as large as the net was before it was first cut.
    """
    peak = machine.peak_gflops.get("fp32", 0.0) * 1e9 / max(machine.cores, 1) * SHARE
    if not peak:
        return 0.0
    teacher = 2 * max(facts.whole, uncut(facts)) if taught else 0.0
    products = batch * (6 * facts.operations / GAIN[precision] + teacher)
    update = UPDATE_SECONDS * facts.parameters_by.get("embedding", 0)
    return facts.calls * (products / peak + LAYER_SECONDS * sum(facts.layers.values())) + update


def uncut(facts: Facts) -> float:
    """Return the operations that a net had before it was cut and not yet recovered."""
    return facts.operations / max(1 - facts.cut, 1e-6)


def threads_worth(facts: Facts, batch: int, most: int) -> int:
    """Return how many of `most` threads a training should use: all or one, told by the net alone, so that it repeats.

    >>> encoder = Facts("torch", 22_000_000, 500_000_000, {"linear": 37, "attention": 6})
    >>> threads_worth(encoder, 16, most=2), threads_worth(Facts("torch", 1, 20_000_000, {"conv": 9}), 16, most=2)
    (2, 1)
    """
    return most if 2 * facts.operations * batch >= SHARED * max(1, sum(facts.layers.values())) else 1


def steps_worth(seconds: float) -> tuple[int, ...]:
    """Return the steps of a short, a medium and a long training by the seconds of a step; powers of two, each once.

    Powers of two, because a machine's facts are read anew each time and a recipe must not change with their noise.

    >>> steps_worth(0.5), steps_worth(0.001), steps_worth(30.0)
    ((32, 128, 256), (512, 1024, 4096), ())
    """
    if not seconds:
        return tuple(most for _, most in OFFERS)
    counts = (min(most, 2 ** round(math.log2(budget / seconds))) for budget, most in OFFERS if budget > seconds)
    return tuple(dict.fromkeys(count for count in counts if count >= FEWEST))


def precision_of(facts: Facts, machine: Machine) -> str:
    """Return `bf16` where the processor multiplies it and the net is large enough to gain, else `fp32`."""
    has = any(name in machine.isa for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if has and facts.operations > 20_000_000 else "fp32"


def epochs_worth(epochs: float, steps: int | None, convolutions: int) -> float:
    """Return what a recovery is worth in epochs of a small data set and a shallow net; `steps` replaces `epochs`.

    >>> epochs_worth(3, None, 9), epochs_worth(3, 250, 9), epochs_worth(3, 250, 32)
    (3.0, 2.0, 1.0)
    """
    return (steps / STEPS_AN_EPOCH if steps else epochs) / max(1.0, convolutions / SHALLOW)


def still_lost(epochs: float) -> float:
    """Return the share of a loss expected to be left after a recovery of so many epochs, as `epochs_worth` counts.

    Each epoch wins back four fifths of what is still lost, but a few hundredths go slowly: seen on small residual nets,
    where twice the steps nearly halved what deep cuts still lost.

    >>> [round(still_lost(epochs), 4) for epochs in (0, 1, 4, 32)]
    [1.0, 0.23, 0.0091, 0.0009]
    """
    return min(1.0, math.pow(0.2, epochs) + 0.03 / max(epochs, 1.0))
