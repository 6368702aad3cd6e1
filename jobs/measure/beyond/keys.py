"""The golden samples of a run: who is asked about them, and what is kept beside the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster.measured import STUDENT, STUDENT_INT8
from jobs.measure import champion, exam, golden, next_tokens
from jobs.measure.beyond.setting import GENERATED, Setting, one_by_one
from jobs.measure.champion import Champion
from jobs.measure.exam import Exam
from jobs.tasks.text_generation.task import TextGeneration
from serving.bundle import predict


def golden_part(setting: Setting) -> dict[str, Any]:
    """Agreement on the key samples, and `golden.parquet` with the answers. Of a language model the answer to a text is
    the likeliest next token at every place of it: free writing parts for good at the first token that differs."""
    recipe = setting.recipe
    known = exam.of(setting.requests("validation"), None, recipe.seed)
    rows = golden.chosen(known, recipe.evaluate.golden_rows, recipe.seed)
    served = predict.load(setting.bundle)
    engines: dict[str, Any] = {STUDENT: predict.load(setting.bundle / "float32"), STUDENT_INT8: served}
    found = champion.find(recipe, setting.store)
    if isinstance(found, Champion) and recipe.task == GENERATED and not _same_tokens(found.engine, served):
        found = f"version {found.version} has other tokens"
    if isinstance(found, Champion):
        engines["champion"] = found.engine
    else:
        setting.report["not_measured"]["champion"] = found
    told = _next_tokens(setting, rows, engines) if recipe.task == GENERATED else _answers(rows, engines, setting.out)
    about = {"model": found.model, "version": found.version} if isinstance(found, Champion) else None
    return {"rows": len(rows), "seed": recipe.seed, "champion": about, **told}


def _answers(rows: Exam, engines: Mapping[str, predict.Answerer], out: Path) -> dict[str, Any]:
    answers = {name: one_by_one(engine, rows) for name, engine in engines.items()}
    pq.write_table(golden.table(rows, answers), out / "golden.parquet")
    return golden.measure(rows.truth, answers)


def _next_tokens(setting: Setting, rows: Exam, engines: Mapping[str, Any]) -> dict[str, Any]:
    task = TextGeneration(setting.recipe)
    truth = task.answers(rows.truth)
    pairs = list(zip(task.contexts([item["text"] for item in rows.items]), truth, strict=True))
    heard = {name: next_tokens.told(engine, pairs) for name, engine in engines.items()}
    decode, ends = task.vocabulary.tokenizer.decode, np.cumsum([len(ids) for ids in truth])[:-1]
    texts = {name: [decode(ids.tolist()) for ids in np.split(own.chosen_T, ends)] for name, own in heard.items()}
    pq.write_table(golden.table(rows, texts), setting.out / "golden.parquet")
    return golden.measure(_flat(truth), {name: own.chosen_T.tolist() for name, own in heard.items()})


def _flat(rows: Sequence[np.ndarray]) -> list[int]:
    return [int(token) for row in rows for token in row]


def _same_tokens(one: Any, other: Any) -> bool:
    return bool(one.tokenizer.get_vocab() == other.tokenizer.get_vocab())
