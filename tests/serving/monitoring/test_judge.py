"""What the judge orders, without gateways and without a store."""

from cluster.recipe import DriftSection, ExperimentSection
from serving.experiments.events import Batch, Judged
from serving.monitoring.judge import Judge
from serving.seams.observe import CHAMPION, Arm


def fallen() -> Judge:
    """A champion that agreed with its teacher in 95 % of all answers, and does in none now."""
    judge = Judge(ExperimentSection(), DriftSection(window=100), {"agreement": 0.95})
    wrong = [Judged(f"r{number}", "agreement", 0.0, 0.9, 1000 + number) for number in range(100)]
    judge.take(Batch("g", 0, [Arm(CHAMPION, "m", "1", 1.0)], judged=wrong), 0.0)
    return judge


def test_a_fall_of_the_old_champion_is_not_held_against_the_one_that_is_being_crowned() -> None:
    judge = fallen()
    judge.crowning = True
    assert judge.decide(1.0, 1) == []
    judge.take(Batch("g", 1, [Arm(CHAMPION, "m", "2", 1.0)], since_ms=5), 2.0)
    assert not judge.crowning
    assert judge.decide(3.0, 3) == []


def test_a_fall_counts_when_the_promotion_is_refused() -> None:
    judge = fallen()
    judge.crowning = True
    assert judge.decide(1.0, 1) == []
    judge.crowning = False
    assert [order.action for order in judge.decide(2.0, 2)] == ["rollback"]
