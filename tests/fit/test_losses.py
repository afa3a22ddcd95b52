import math

import pytest
import torch

from trimtab.errors import DataError
from trimtab.fit.losses import hard, soft


def test_cross_entropy_by_hand_with_class_weights():
    logits, targets = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    assert hard("cross_entropy")(logits, targets).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    weighted = hard("cross_entropy", (1.0, 3.0))(logits, targets).item()
    assert weighted == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4)


def test_smoothing_raises_the_loss_of_a_sure_answer():
    logits, targets = torch.tensor([[9.0, 0.0]]), torch.tensor([0])
    assert hard("cross_entropy", smoothing=0.1)(logits, targets) > 100 * hard("cross_entropy")(logits, targets)


def test_regression_takes_targets_without_the_last_axis():
    assert hard("mse")(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0])).item() == 5.0
    assert hard("mae")(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0])).item() == 2.0
    with pytest.raises(DataError, match=r"targets have shape \[3\]"):
        hard("mse")(torch.zeros(2, 1), torch.zeros(3))


def test_unknown_objective_names_the_known_ones():
    with pytest.raises(DataError, match="did you mean cross_entropy"):
        hard("crossentropy")


def test_divergence_is_zero_for_equal_logits_and_by_hand_at_temperature_two():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    assert soft("cross_entropy", 2.0)(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft("cross_entropy", 2.0)(student, teacher).item() == pytest.approx(4 * divergence, rel=1e-5)
