"""Measures language models by the true text: how likely every model finds each next token, given the true ones before.

`likelihood` is exp(mean log-probability of the true tokens), 1 / perplexity: higher is better, so gates and drops read
as everywhere, and the ratio of two is the perplexity of the other over one's own (DESIGN: teacher over student).

Shape legend: R rows, A tokens of a row, V vocabulary, T tokens of all rows, D draws.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cluster.measured import BASELINE, CONTROL, MODEL_KINDS, STUDENT, STUDENT_INT8, TEACHER
from cluster.recipe import Recipe
from jobs.export import engine_bytes
from jobs.measure import calibration, latency, metrics, side_by_side, sizes
from jobs.measure.bootstrap import CHUNK, Interval
from jobs.measure.contenders import BESIDE, SERVED, Contender, bundled
from jobs.measure.exam import Exam
from jobs.measure.ngrams import Bigrams
from jobs.tasks.text_generation.task import TextGeneration
from serving import teachers
from serving.bundle import predict

Array = np.ndarray[Any, Any]
Pairs = Sequence[tuple[Array, Array]]
AT_ONCE = 8  # rows whose logits [A, V] are held together
LOGIT_ROWS = 32  # rows whose INT8 and float32 logits are compared


class Scorer(Protocol):
    """What tells the logits of given tokens."""

    def scored(self, pairs: Pairs) -> list[Array]:
        """Logits float32 [A, V] that the tokens of each (context ids, answer ids) get."""


@dataclass(frozen=True)
class Likely:
    """How likely a model finds true texts: per row the sum of -log p of its true tokens (nats) and their number,
    float64 and int64 [R]."""

    nll_R: Array
    tokens_R: Array

    @property
    def likelihood(self) -> float:
        """exp(mean log-probability), 0 to 1."""
        return float(np.exp(-self.nll_R.sum() / self.tokens_R.sum()))


@dataclass(frozen=True)
class Told(Likely):
    """What one model made of the exam: beside `Likely`, per token the likeliest one, its probability, and whether it is
    the true one, [T]."""

    chosen_T: Array
    confidence_T: Array
    right_T: Array

    def same(self, other: Told) -> float:
        """Share of tokens where both find the same one likeliest."""
        return float((self.chosen_T == other.chosen_T).mean())

    def metrics(self, teacher: Told) -> dict[str, float]:
        """The primary metric first; agreement is with the teacher's likeliest next token."""
        return {
            "likelihood": self.likelihood, "perplexity": 1 / self.likelihood,
            "token_accuracy": float(self.right_T.mean()),
            "agreement": self.same(teacher),
        }  # fmt: skip


def told(scorer: Scorer, pairs: Pairs) -> Told:
    """Ask a model for every token of the true answers, a few rows at a time."""
    nll, chosen, confidence, right = [], [], [], []
    for start in range(0, len(pairs), AT_ONCE):
        part = pairs[start : start + AT_ONCE]
        for (_, answer_A), logits_AV in zip(part, scorer.scored(part), strict=True):
            peak_A1 = logits_AV.max(-1, keepdims=True)
            lse_A = peak_A1[:, 0] + np.log(np.exp(logits_AV - peak_A1).sum(-1, dtype=np.float64))
            nll.append(float((lse_A - logits_AV[np.arange(len(answer_A)), answer_A]).sum()))
            chosen.append(logits_AV.argmax(-1))
            confidence.append(np.exp(peak_A1[:, 0] - lse_A))
            right.append(chosen[-1] == answer_A)
    counts = np.array([len(answer) for _, answer in pairs])
    return Told(np.array(nll), counts, np.concatenate(chosen), np.concatenate(confidence), np.concatenate(right))


def examine(
    recipe: Recipe, exam: Exam, models: Mapping[str, Path], bundle: Path, student: Path, others: Mapping[str, Path]
) -> tuple[dict[str, Contender], dict[str, Any]]:
    """Every model's contender in the report's order, and the report's numbers (see `jobs.evaluate`).

    `models` are Hugging Face folders by name, `bundle` is what is served, `student` the student's artifact, `others`
    bundles of the student to be measured beside the served one.
    """
    task = TextGeneration(recipe)
    texts = [item["text"] for item in exam.items]
    pairs = list(zip(task.contexts(texts), task.answers(exam.truth), strict=True))
    asked: dict[str, Contender] = {}
    heard: dict[str, Told] = {}
    for name in (*MODEL_KINDS, *others):
        if name == BASELINE:
            scorer: Any = Bigrams.of(task.fit_columns(), task.vocabulary)
            asked[name] = Contender([], scorer.params, scorer.params, scorer.bytes, None, scorer, scorer.about)
        elif name == STUDENT_INT8 or name in others:
            folder, note = (others[name], BESIDE) if name in others else (bundle, SERVED)
            scorer = predict.load(folder)
            asked[name] = bundled(asked[STUDENT], folder, scorer, note)
        elif name in models:
            scorer = teachers.open_folder(models[name])
            asked[name] = _sized(scorer, bundle / ("teacher" if name == TEACHER else "float32"))
            if name == CONTROL:  # same shape as the student: timing it would be timing the student twice
                asked[name] = replace(asked[name], engine=None, note="the student's network on the true text alone")
        else:
            continue
        heard[name] = told(scorer, pairs)
        asked[name] = replace(asked[name], answers=_answers(heard[name], task))
        del scorer
        gc.collect()
    measured = _measured(recipe, exam, asked, heard, (bundle, student / "unmerged.json"))
    return {name: asked[name] for name in MODEL_KINDS if name in asked}, measured


def _sized(teacher: Any, bundle: Path) -> Contender:
    """Sizes of a network, timed by its float32 bundle where it was exported."""
    params, inner = sizes.parameters(teacher.model)
    if not bundle.is_dir():
        return Contender([], params, inner, None, None, None, "asked where its weights lie")
    engine = predict.load(bundle)
    note = "scores from torch, bytes and latency from float32 ONNX"
    return Contender([], params, inner, engine_bytes(bundle), sizes.kv_bytes_per_token(engine.spec), engine, note)


def _answers(own: Told, task: TextGeneration) -> list[predict.Answer]:
    """Per row the likeliest next tokens side by side, and exp(mean log-probability) of the true ones."""
    rows = np.split(own.chosen_T, np.cumsum(own.tokens_R)[:-1])
    sure_R = np.exp(-own.nll_R / own.tokens_R).tolist()
    decoded = [task.vocabulary.tokenizer.decode(ids.tolist()) for ids in rows]
    return [predict.Answer(text, sure) for text, sure in zip(decoded, sure_R, strict=True)]


def _measured(recipe: Recipe, exam: Exam, asked: Mapping[str, Contender], heard: Mapping[str, Told],
              folders: tuple[Path, Path]) -> dict[str, Any]:  # fmt: skip
    section, (bundle, unmerged) = recipe.evaluate, folders
    engines = {name: one.engine for name, one in asked.items() if one.engine is not None}
    timed = latency.interleaved(engines, latency.chosen(exam.items, section.latency_requests, recipe.seed), recipe.seed)
    student, int8, teacher = asked[STUDENT], asked[STUDENT_INT8], asked[TEACHER]
    before, after = heard[STUDENT], heard[STUDENT_INT8]
    kv_before = json.loads(unmerged.read_text())["kv_bytes_per_token"]
    draws, seed = section.bootstrap, recipe.seed
    gain = compared(after, heard[CONTROL], np.subtract, draws, seed) if CONTROL in heard else None
    beside = {name: one for name, one in asked.items() if name == STUDENT_INT8 or name not in MODEL_KINDS}
    return {
        "models": {
            name: {
                "metrics": heard[name].metrics(heard[TEACHER]), "slices": {"all": heard[name].likelihood},
                "params": one.params, "params_non_embedding": one.params_non_embedding, "bytes": one.bytes,
                "kv_bytes_per_token": one.kv_bytes_per_token, "latency_ms": timed.get(name), "note": one.note,
            }
            for name, one in asked.items() if name in MODEL_KINDS
        },
        "primary_metric": metrics.PRIMARY[recipe.task],
        "retention": compared(after, heard[TEACHER], np.divide, draws, seed),
        "control_gain": None if gain is None else {"on": "all rows", **gain},
        "int8": {
            "task_drop": (before.likelihood - after.likelihood) / before.likelihood,
            "agreement": after.same(before),
            "logit_error": _logit_error(bundle, exam.items),
        },
        "kv_share": int8.kv_bytes_per_token / kv_before if int8.kv_bytes_per_token else None,
        "param_share": student.params / teacher.params if student.params and teacher.params else None,
        "speedup": timed[TEACHER]["p50"] / timed[STUDENT_INT8]["p50"] if TEACHER in timed else None,
        "engines": side_by_side.table(
            beside, lambda name: heard[name].metrics(heard[TEACHER]), lambda name: heard[name].same(before), timed
        ),
        "calibration": {
            name: calibration.curve(heard[name].right_T, heard[name].confidence_T)
            for name in (TEACHER, STUDENT, STUDENT_INT8)
        },
    }  # fmt: skip


def compared(one: Likely, other: Likely, how: np.ufunc, draws: int, seed: int) -> Interval:
    """`value`, `low`, `high` (95 %, rows resampled for both alike) of `how` (divide, subtract) on the likelihoods."""
    rng, rows, found = np.random.default_rng(seed), len(one.nll_R), []
    for start in range(0, draws, CHUNK):
        counts_DR = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(CHUNK, draws - start))
        both = [np.exp(-(counts_DR @ told.nll_R) / (counts_DR @ told.tokens_R)) for told in (one, other)]
        found.append(how(*both))
    bounds = np.percentile(np.concatenate(found), [2.5, 97.5]).tolist() if found else [None, None]
    return {"value": float(how(one.likelihood, other.likelihood)), "low": bounds[0], "high": bounds[1]}


def _logit_error(bundle: Path, items: Sequence[Mapping[str, Any]]) -> float:
    """Relative logit error of a bundle against the `float32/` bundle below it (share), asked row by row."""
    chosen = items[:: -(-len(items) // LOGIT_ROWS)]
    engines = (predict.load(bundle / "float32"), predict.load(bundle))
    return metrics.logit_error(*([engine.logits([item])[0] for item in chosen] for engine in engines))
