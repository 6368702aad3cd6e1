"""A language model of a third of its teacher's size on tiny_shakespeare, with GPT-2's 50,257 tokens: what sampled soft
labels are worth beside the text alone, and whether the teacher's most uncertain fifth of the tokens is enough.

The product itself runs (`python -m jobs run`), so what a killed bench had finished is found again in the store below
RAYDISTILL_CELLS (default runs/bench-cells), and its training goes on at the last checkpoint. Every arm goes on with its
best weights on validation rows; the test split is read once, by `evaluate`. One seed, on the machine named in the row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.recipe import load
from cluster.store import Store
from jobs.tasks import packed_labels
from jobs.tasks.text_generation.task import TextGeneration
from jobs.training.losses import Signals
from jobs.training.terms import terms_at

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "language_model"
TEXTS = [
    f"data.{split}={SHARED}/generation/tiny_shakespeare_{split}.parquet" for split in ("train", "validation", "test")
]
WORDS = f"{{max_tokens: 64, joined: true, tokenizer: {SHARED}/tokenizers, max_new_tokens: 24}}"
BEST = "evaluate_every: 150, early_stop: {patience: 1000}"  # never stops: the best weights of the stage go on
TERM = "{name: sampled_cross_entropy, params: {temperature: 1.0}%s}"
STAGE = "distill.stages=[{name: soft_labels, epochs: 8, learning_rate: 3.0e-3, " + BEST + ", losses: [%s]}]"
SETTINGS = [
    "data.source=table", *TEXTS, "data.max_rows=null", "data.licence=MIT", f"data.params={WORDS}",
    "teacher.params={layers: 4, hidden_size: 192, heads: 6, kv_heads: 6, head_dim: 32, inner_size: 512}",
    "student.params={layers: 3, hidden_size: 64, heads: 4, kv_heads: 4, head_dim: 16, inner_size: 192}",
    f"fit.stages=[{{name: fit, epochs: 3, learning_rate: 3.0e-3, {BEST}, losses: [{{name: cross_entropy}}]}}]",
    "fit.engine.workers=1", "generate.batch_size=32", "evaluate.max_rows=null", "evaluate.latency_requests=40",
    "evaluate.gates={latency_p95_ms: null, retention_min: null, int8_drop_max: null, int8_agreement_min: null, "
    "kv_share_max: null, param_share_max: null, above_control: null}",
]  # fmt: skip
UNCERTAIN = ", focus: [{name: teacher_entropy, params: {share: 0.2}}]"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(6 * 3600),
]


def settings(focus: str = "") -> list[str]:
    return [*SETTINGS, STAGE % (TERM % focus), f"distill.control={'false' if focus else 'true'}"]


def report(given: list[str]) -> dict[str, Any]:
    """The report of a run with these settings; what of the run is in the store is not done again."""
    sets = [word for one in given for word in ("--set", one)]
    command = [sys.executable, "-m", "jobs", "run", "language_model", "--store", str(CELLS), "--json", *sets]
    ran = subprocess.run([*command, "--until", "evaluate"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert ran.returncode in (0, 3), ran.returncode  # 3: a gate failed, the report is there
    artifact = Store.open(CELLS).get("report", json.loads(ran.stdout)["artifacts"]["report"])
    found: dict[str, Any] = json.loads((artifact.path() / "report.json").read_text())
    return found


def perplexities(found: dict[str, Any]) -> dict[str, float]:
    return {name: round(model["metrics"]["perplexity"], 2) for name, model in found["models"].items()}


def closed(seen: dict[str, float]) -> float:
    """The share of the gap between the control arm and the teacher that the student closes."""
    return round((seen["control"] - seen["student"]) / (seen["control"] - seen["teacher"]), 3)


def test_the_recipe_as_it_ships_closes_half_the_gap_to_the_teacher(record: Callable[..., None]) -> None:
    found = report([])
    seen, share = perplexities(found), found["param_share"]
    record(
        "language_model_default_gap", "perplexity gap between control and teacher that the student closes, source code "
        "of Python's standard library, one seed", closed(seen), "share of the gap", bar=">= 0.5 at <= 1/3 of the size",
        passed=closed(seen) >= 0.5 and share <= 1 / 3, perplexity=seen, param_share=share,
    )  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared texts and GPT-2's tokenizer")
def test_a_third_of_the_size_closes_half_the_gap_to_the_teacher(record: Callable[..., None]) -> None:
    found = report(settings())
    seen = perplexities(found)
    record(
        "language_model_gap", "perplexity gap between control and teacher that the student closes, tiny_shakespeare",
        closed(seen), "share of the gap (teacher's text alone: 0, teacher: 1)", bar=">= 0.5 at <= 1/3 of the size",
        passed=closed(seen) >= 0.5 and found["param_share"] <= 1 / 3, perplexity=seen, param_share=found["param_share"],
        tokens=50257, validation=[stage["after"] for stage in found["stages"]],
    )  # fmt: skip
    record(
        "language_model_perplexity", "perplexity of the student on the test split, tiny_shakespeare", seen["student"],
        "perplexity", peer="control: the same student and steps on the text alone", peer_value=seen["control"],
        teacher=seen["teacher"], int8=seen["student_int8"], pairs_of_tokens=seen["baseline"],
        accuracy={name: model["metrics"]["token_accuracy"] for name, model in found["models"].items()},
    )  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared texts and GPT-2's tokenizer")
def test_the_most_uncertain_fifth_of_the_tokens_beside_all(record: Callable[..., None]) -> None:
    every, fifth = report(settings()), report(settings(UNCERTAIN))
    ours, peer = perplexities(fifth)["student"], perplexities(every)["student"]
    ratio = step_seconds(UNCERTAIN) / step_seconds("")
    record(
        "language_model_uncertain_fifth", "perplexity from the teacher's most uncertain fifth of the tokens", ours,
        "perplexity", peer="all tokens", peer_value=peer, seconds_of_a_step_over_all_tokens=round(ratio, 3),
        training_seconds=[sum(stage["seconds"] for stage in one["stages"]) for one in (fifth, every)],
        agreement=[one["models"]["student"]["metrics"]["agreement"] for one in (fifth, every)],
    )  # fmt: skip


def step_seconds(focus: str, repeats: int = 7) -> float:
    """Median seconds of a forward and backward pass over one batch of the recipe, the loss included (one thread)."""
    torch.set_num_threads(1)
    recipe = load("language_model", settings(focus))
    task, stage = TextGeneration(recipe), recipe.distill.stages[0]
    student, columns = task.build(recipe.student, 0), task.validation_columns()
    batch = task.batch(columns, np.arange(recipe.distill.batch_size))
    count, rng = len(batch["targets"]), np.random.default_rng(0)
    batch |= {
        "sparse_ids": torch.from_numpy(rng.integers(0, task.vocabulary.size, (count, 40))),
        "sparse_logits": torch.zeros(count, 40), "sparse_counts": torch.ones(count, 40),
        "sparse_entries": torch.full((count,), 40), "sparse_log_sum_exp": torch.full((count,), 4.0),
        "sparse_temperature": torch.ones(1, dtype=torch.float64), "sparse_draws": torch.tensor([40]),
    }  # fmt: skip
    entropy_Q = torch.from_numpy(rng.random(count))
    (term,) = terms_at(stage.losses, 0, 1)
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        logits_QV, _ = task.scored(student, batch)
        signals = Signals(
            logits_QV, batch["targets"], teacher_sparse=packed_labels.sparse_of(batch), teacher_entropy_Q=entropy_Q
        )
        term.value(signals)[0].backward()  # type: ignore[no-untyped-call]
        took.append(time.perf_counter() - started)
    return float(np.median(took))
