"""How much terms and positions count: shares that are what the recipe says, and rules that weigh what they promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.training.losses import Signals
from jobs.training.weighting import RULES, Balance, weigh


def signals() -> Signals:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(20, 6, generator=generator) * 2 for _ in range(2))
    entropy_Q = torch.special.entr(teacher.softmax(-1)).sum(-1)  # stored beside soft labels of every form
    counts_V = torch.tensor([100, 1, 10, 50, 0, 7])
    return Signals(student, teacher.argmax(-1), teacher, teacher_entropy_Q=entropy_Q, target_counts_V=counts_V)


def weights(name: str, given: Signals, **params: object) -> torch.Tensor:
    found = weigh(given, [(RULES[name], RULES[name].params.parse(params))])
    assert found is not None
    return found


def probabilities(logits: torch.Tensor | None) -> np.ndarray:
    assert logits is not None
    e = np.exp(logits.double().numpy())
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", sorted(RULES))
def test_weights_are_finite_not_negative_one_per_position_and_take_no_gradient(name: str) -> None:
    for scale in (1e-4, 1.0, 1e4):
        given = signals()
        given = replace(given, student_logits_QV=(given.student_logits_QV * scale).requires_grad_(),
                        teacher_logits_QV=given.teacher_logits_QV * scale)  # fmt: skip
        found = weights(name, given, **({"ids": [2]} if name == "tokens" else {}))
        assert found.shape == (20,) and found.dtype == torch.float32 and not found.requires_grad
        assert torch.isfinite(found).all() and (found >= 0).all()


def test_rare_classes_count_by_their_effective_number() -> None:
    given = signals()
    assert given.target_counts_V is not None
    found = weights("class_balanced", given, beta=0.9)
    count = np.maximum(given.target_counts_V.numpy()[given.targets_Q.numpy()], 1)
    np.testing.assert_allclose(found.numpy(), 0.1 / (1 - 0.9**count), rtol=1e-6)
    np.testing.assert_allclose(weights("class_balanced", given, beta=0.0).numpy(), 1)
    nearly = weights("class_balanced", given, beta=0.9999999).numpy() * count
    np.testing.assert_allclose(nearly, 1, rtol=1e-4)  # towards 1: one over the number of rows


def test_difficulty_confidence_and_doubt_are_read_from_the_logits() -> None:
    given = signals()
    q, p = probabilities(given.student_logits_QV), probabilities(given.teacher_logits_QV)
    ordered = np.sort(p, -1)
    target = q[np.arange(20), given.targets_Q.numpy()]
    np.testing.assert_allclose(weights("difficult", given, gamma=2.0).numpy(), (1 - target) ** 2, rtol=1e-4)
    np.testing.assert_allclose(weights("teacher_confident", given).numpy(), ordered[:, -1], rtol=1e-5)
    unsure = 1 - (ordered[:, -1] - ordered[:, -2])
    np.testing.assert_allclose(weights("teacher_unsure", given).numpy(), unsure, rtol=1e-4)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_the_uncertain_fifth_is_chosen_by_entropy(who: str) -> None:
    given = signals()
    p = probabilities(given.student_logits_QV if who == "student" else given.teacher_logits_QV)
    found = weights(f"{who}_entropy", given, share=0.2).numpy()
    entropy = -(p * np.log(p)).sum(-1)
    assert set(np.flatnonzero(found)) == set(np.argsort(entropy)[-4:]) and set(found) == {0.0, 1.0}
    assert weights(f"{who}_entropy", given, share=0.001).sum() == 1


def test_named_tokens_get_their_weight_and_rules_multiply() -> None:
    given = signals()
    doubled = weights("tokens", given, ids=[0, 3], weight=2.5).numpy()
    named = np.isin(given.targets_Q.numpy(), [0, 3])
    np.testing.assert_array_equal(doubled, np.where(named, 2.5, 1.0))
    rules = [(RULES["tokens"], RULES["tokens"].params.parse({"ids": [0, 3], "weight": 2.5})),
             (RULES["teacher_confident"], RULES["teacher_confident"].params.parse({}))]  # fmt: skip
    both = weigh(given, rules)
    assert both is not None
    np.testing.assert_allclose(both.numpy(), doubled * weights("teacher_confident", given).numpy(), rtol=1e-6)
    assert weigh(given, []) is None


def test_shares_follow_weights_that_change() -> None:
    balance, rng = Balance([0.7, 0.3]), np.random.default_rng(0)
    seen = []
    for step in range(400):
        balance.weigh([0.7 - 0.3 * step / 399, 0.3 + 0.3 * step / 399])
        terms = [torch.tensor(rng.uniform(9, 11)), torch.tensor(rng.uniform(0.0009, 0.0011))]
        balance(terms, torch.stack(terms))
        seen.append(balance.shares[0])
    assert np.mean(seen[:40]) == pytest.approx(0.7, abs=0.03) and np.mean(seen[-40:]) == pytest.approx(0.4, abs=0.03)


def test_a_regulariser_keeps_its_own_size_though_it_starts_at_zero() -> None:
    # Brought to the size of the first term, a penalty of 1e-9 would pull as hard as the loss in the very first steps.
    balance = Balance([0.1, 1.0], absolute=[True, False])
    for penalty in (0.0, 1e-9, 0.5):
        terms = [torch.tensor(penalty), torch.tensor(2.0)]
        total = balance(terms, torch.stack(terms))
        assert total.item() == pytest.approx(2.0 + 0.1 * penalty)
    assert balance.shares == pytest.approx([0.05 / 2.05, 2 / 2.05])


def test_a_run_counts_where_its_ids_stand_in_a_row_and_nowhere_else() -> None:
    targets_Q = torch.tensor([4, 1, 2, 3, 1, 2, 2, 1, 4])
    given = replace(signals(), targets_Q=targets_Q, student_logits_QV=torch.zeros(9, 6))
    found = weights("tokens", given, runs=[[1, 2], [2, 1, 4]], ids=[3], weight=3.0)
    assert found.tolist() == [1, 3, 3, 3, 3, 3, 3, 3, 3]
    assert weights("tokens", given, runs=[[1, 2]], weight=3.0).tolist() == [1, 3, 3, 1, 3, 3, 1, 1, 1]
    assert weights("tokens", given, runs=[[1] * 10]).tolist() == [1] * 9  # longer than all that is there
