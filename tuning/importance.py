"""How much each knob decided about quality: the share of its variance that a forest of trees lays to the knob alone.

fANOVA (Hutter, Hoos and Leyton-Brown 2014) as Optuna has it, over finished trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from tuning.space import Space

TRIALS_MIN = 8  # of fewer a forest says nothing
SEED = 0


def of(space: Space, done: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Knob -> share of what all knobs decide (sum 1), largest first; None where there are too few trials, or all are
    equally good."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for one in done:
        inner = space.inner(one["point"])
        if inner is not None:
            value = one["objectives"]["quality"]
            study.add_trial(optuna.create_trial(value=value, params=inner, distributions=space.distributions))
    values = {trial.value for trial in study.trials}
    if len(study.trials) < TRIALS_MIN or len(values) < 2:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
