"""What is known of a new case from cases that share some of its properties: a model of random effects.

The value of a case is a sum of effects, one for each group that it belongs to (its runtime, its precision, its
structure) and one for each number that it has (a slope), all independent and normal around zero. Cases that share a
group share its effect, so what was seen of one says something of the other, and says less the less they share. The
effect of some groups walks along a number: cases near each other share most of it, and what was seen at one number
screens what lies before it from what lies beyond (a Brownian path, scaled to the same spread everywhere).

Source: the best linear unbiased predictor of Henderson (1975), Biometrics 31:423, equation 4; the same as a Gaussian
process whose kernel adds up indicators of a shared group (Rasmussen and Williams 2006, sections 2.2 and 4.2.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """What a case shares with others."""

    groups: Mapping[str, str]
    """Kind of group -> which one."""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Effects:
    """Effects of groups and slopes, learned from cases as they come.

    >>> effects = Effects({"runtime": 1.0, "structure": 0.5})
    >>> effects.learn(Case({"runtime": "a", "structure": "x"}), 1.0, noise=0.01)
    >>> means, spreads = effects.expect([Case({"runtime": "a", "structure": "y"}), Case({"runtime": "b"})])
    >>> means.round(2).tolist(), spreads.round(2).tolist()
    ([0.8, 0.0], [0.67, 1.0])
    """

    spreads: Mapping[str, float]
    """Kind of group -> standard deviation of its effects before anything was seen; kinds not named have none."""
    slopes: Mapping[str, float] = field(default_factory=dict)
    """Name of a number -> standard deviation of its slope."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Kind of group -> the number, above 0, along which its effects walk."""
    cases: list[Case] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)

    def learn(self, case: Case, value: float, noise: float) -> None:
        """Take in a value seen with a measurement error of standard deviation `noise`, which must be above 0."""
        if not (noise > 0 and np.isfinite(value)):
            raise ValueError(f"a finite value and a noise above 0 are needed, got {value} and {noise}")
        self.cases.append(case)
        self.values.append(value)
        self.noises.append(noise)

    def expect(self, cases: Sequence[Case]) -> tuple[Floats, Floats]:
        """Return the mean and the standard deviation expected of each case, both float[n], without noise."""
        prior = self._prior(cases)
        if not self.cases:
            return np.zeros(len(cases)), np.sqrt(prior)
        known = self._covariance(self.cases, self.cases) + np.diag(np.square(self.noises))
        across = self._covariance(cases, self.cases)
        solved = np.linalg.solve(known, np.column_stack([np.array(self.values), across.T]))
        left = prior - np.einsum("ij,ji->i", across, solved[:, 1:])
        return np.asarray(across @ solved[:, 0]), np.sqrt(np.maximum(left, 0.0))

    def _prior(self, cases: Sequence[Case]) -> Floats:
        groups = [sum(s**2 for kind, s in self.spreads.items() if kind in case.groups) for case in cases]
        lines = [sum((s * case.numbers.get(name, 0.0)) ** 2 for name, s in self.slopes.items()) for case in cases]
        return np.array(groups, dtype=np.float64) + np.array(lines, dtype=np.float64)

    def _covariance(self, rows: Sequence[Case], columns: Sequence[Case]) -> Floats:
        total = np.zeros((len(rows), len(columns)))
        for kind, spread in self.spreads.items():
            ours, theirs = (
                [case.groups.get(kind, missing) for case in side] for side, missing in ((rows, "\0"), (columns, "\1"))
            )
            shared = np.array(ours)[:, None] == np.array(theirs)[None, :]
            total += spread**2 * shared * self._nearness(kind, rows, columns)
        for name, slope in self.slopes.items():
            ours_x, theirs_x = (np.array([case.numbers.get(name, 0.0) for case in side]) for side in (rows, columns))
            total += slope**2 * np.outer(ours_x, theirs_x)
        return total

    def _nearness(self, kind: str, rows: Sequence[Case], columns: Sequence[Case]) -> Floats | float:
        """Return the correlation, float[rows, columns], of the effects of a kind of group that walk along a number."""
        if kind not in self.paths:
            return 1.0
        ours, theirs = (
            np.array([case.numbers.get(self.paths[kind], 1.0) for case in side]) for side in (rows, columns)
        )
        lower, upper = np.minimum.outer(ours, theirs), np.maximum.outer(ours, theirs)
        return np.asarray(np.sqrt(lower / upper))
