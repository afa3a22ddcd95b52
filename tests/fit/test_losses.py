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
    assert soft("cross_entropy", 2.0)(teacher, teacher, None).item() == pytest.approx(0.0, abs=1e-6)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft("cross_entropy", 2.0)(student, teacher, None).item() == pytest.approx(4 * divergence, rel=1e-5)


def test_tokens_that_are_padding_do_not_count():
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]], [[0.0, 0.0], [9.0, 0.0]]])
    targets = torch.tensor([[0, 1], [0, -1]])
    expected = (math.log(4 / 3) + 2 * math.log(2)) / 3
    assert hard("token_nll")(logits, targets).item() == pytest.approx(expected)
    with pytest.raises(DataError, match=r"targets have shape \[2, 3\]"):
        hard("token_nll")(logits, torch.zeros(2, 3))


def test_ranking_shares_the_target_among_the_wanted_items():
    scores = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    one, both = hard("softmax_ranking")(scores, torch.tensor([0, 1])), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert one.item() == pytest.approx(hard("cross_entropy")(scores, torch.tensor([0, 1])).item())
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert hard("softmax_ranking")(scores, both).item() == pytest.approx(expected)
    assert hard("softmax_ranking")(scores, 3 * both).item() == pytest.approx(expected)
    assert hard("softmax_ranking")(scores, torch.zeros(2, 2)).item() == 0.0


def test_labels_that_exclude_nothing():
    logits, targets = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[1.0, 1.0]])
    loss = hard("binary_cross_entropy")(logits, targets).item()
    assert loss == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    follow = soft("binary_cross_entropy", 2.0)
    assert follow(logits, logits, None).item() == pytest.approx(0.0, abs=1e-6)
    assert follow(logits, -logits, None) > 0.1


def test_a_teacher_counts_only_where_there_are_targets():
    student, teacher = torch.zeros(1, 2, 2), torch.tensor([[[2 * math.log(3.0), 0.0], [50.0, 0.0]]])
    one = soft("token_nll", 2.0)(student, teacher, torch.tensor([[True, False]]))
    assert one.item() == pytest.approx(soft("cross_entropy", 2.0)(student[:, 0], teacher[:, 0], None).item())
    with pytest.raises(DataError, match=r"the teacher answers with shape \[1, 2, 2\], the model with \[1, 2\]"):
        soft("mse", 1.0)(student[..., 0], teacher, None)


def test_a_task_without_targets_says_what_can_be_done():
    with pytest.raises(DataError, match="no targets to train on; distill"):
        hard("none")
