"""Whether a classifier likes some people less: its answers to the same sentences with another identity in them.

The rows come from a file of sentence templates (for example Dixon et al. 2018, Measuring and Mitigating Unintended Bias
in Text Classification): what differs between two groups is the identity alone, so a gap is the model's own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import InputError, RecipeError
from cluster.recipe.measures import FairnessSection
from jobs.data import readers
from jobs.measure import slices
from jobs.measure.shares import wilson
from serving.bundle.answer import Answer

Array = np.ndarray[Any, Any]
Predict = Callable[[Sequence[Mapping[str, Any]]], Sequence[Answer]]


def check(section: FairnessSection, classes: Sequence[str], seed: int) -> None:
    """Raise InputError where the audit could not be made: no fairlearn, no such class, file, column or groups."""
    if importlib.util.find_spec("fairlearn") is None:
        raise InputError("evaluate.fairness needs fairlearn", got="not installed", hint="pip install -e .[eval]")
    if section.positive not in classes:
        expected = ", ".join(classes) or "a task with classes"
        raise RecipeError("evaluate.fairness.positive: no such class", got=section.positive, expected=expected)
    read(section, seed)


def measure(section: FairnessSection, predict: Predict, seed: int) -> dict[str, Any]:
    """Per group rows, mean probability of the positive class and the share answered so (`selection_rate`, with its 95 %
    interval), and over the groups the gap (largest minus smallest) of both. `worst` are the groups of the first gap.

    Raises RecipeError for a class that answers do not know, and as `read` does.
    """
    (texts, groups), positive = read(section, seed), section.positive
    answers = predict([{"text": text} for text in texts])
    if positive not in (known := answers[0].probabilities or {}):
        raise RecipeError("evaluate.fairness.positive: no such class", got=positive, expected=", ".join(known))
    probability_R = np.array([(answer.probabilities or {})[positive] for answer in answers])
    chosen_R = np.array([answer.text == positive for answer in answers])
    about = {"templates": section.templates, "label_filter": dict(section.only), "positive": positive}
    return {**about, "rows": len(texts), **audited(groups, probability_R, chosen_R)}


def audited(groups: Sequence[str], probability_R: Array, chosen_R: Array) -> dict[str, Any]:
    """`groups`, `gap`, `selection_gap` and `worst` of rows that are already answered."""
    from fairlearn.metrics import MetricFrame, demographic_parity_difference, mean_prediction

    frame = MetricFrame(metrics=mean_prediction, y_true=chosen_R, y_pred=probability_R, sensitive_features=groups)
    by_group = {str(name): float(value) for name, value in frame.by_group.items()}
    told = []
    for name, value in by_group.items():
        own = chosen_R[[group == name for group in groups]]
        low, high = wilson(int(own.sum()), len(own))
        told.append({"name": name, "rows": len(own), "probability": value, "selection_rate": float(own.mean()),
                     "low": low, "high": high})  # fmt: skip
    selection = demographic_parity_difference(chosen_R, chosen_R, sensitive_features=groups)
    worst = [max(by_group, key=lambda name: by_group[name]), min(by_group, key=lambda name: by_group[name])]
    return {"groups": told, "gap": float(frame.difference()), "selection_gap": float(selection), "worst": worst}


def read(section: FairnessSection, seed: int) -> tuple[list[str], list[str]]:
    """Texts and their groups: rows of the file that the filter keeps, the same number of every group (seeded).

    Raises RecipeError for a column or value that the file does not have, DataError for a file that cannot be read.
    """
    wanted = [section.text_column, section.group_column, *section.only]
    raw = readers.read(Path(section.templates).expanduser(), {}, wanted)
    if missing := [name for name in wanted if name not in raw.columns]:
        raise RecipeError("evaluate.fairness: no such column", got=", ".join(missing), expected=str(section.templates))
    columns = {name: [slices.text_of(value) for value in raw.columns[name]] for name in wanted}
    by_group: dict[str, list[str]] = {}
    for row in range(len(raw.numbers)):
        text, group = columns[section.text_column][row], columns[section.group_column][row]
        if text and group and all(columns[name][row] == value for name, value in section.only.items()):
            by_group.setdefault(group, []).append(text)
    large = {name: own for name, own in by_group.items() if len(own) >= section.rows_min}
    if len(large) < 2:
        got, expected = f"{len(large)} of {len(by_group)}", f"two groups of at least {section.rows_min} rows"
        raise RecipeError("evaluate.fairness: nothing to compare", got=got, expected=expected)
    texts, groups = [], []
    for name, own in large.items():
        few = np.random.default_rng(seed).permutation(len(own))[: section.rows_per_group]
        texts += [own[place] for place in np.sort(few)]
        groups += [name] * len(few)
    return texts, groups
