"""The teacher answers the requests: samples, soft labels and dead letters, under Ray Data.

The request table is written first; then read -> repartition -> map -> one write, the shape that Ray Data's checkpoint
resumes per block. A row that cannot be answered becomes a dead letter with its reason and never ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import StepFailed
from cluster.recipe import GenerateSection
from jobs import fit, tasks
from jobs.step import Step, Work
from jobs.tasks import soft_labels

ANSWERS = "answers"
LABELS = ("positions", "vocabulary", "logits", "tokens", "token_entropy", "hidden", "hidden_scale")


def body(work: Work) -> None:
    """Write `samples.parquet`, `soft_labels.parquet` and `dead_letters.parquet`, ordered by `sample_id`."""
    recipe, scratch, target = work.recipe, work.draft.scratch, work.draft.path
    requests = scratch / "requests" / "requests.parquet"
    if not requests.is_file():
        requests.parent.mkdir(exist_ok=True)
        aside = scratch / "requests.new"
        pq.write_table(tasks.of(recipe).requests("train"), aside)
        aside.replace(requests)
    teacher = work.parents["teacher"]
    answer_all(requests, teacher.path() / "hf", recipe.generate, scratch)
    answers = pq.read_table(scratch / ANSWERS).sort_by("sample_id")
    _refuse_lost_rows(answers, pq.read_metadata(requests).num_rows)
    good = pc.equal(answers["status"], "ok")
    samples, failed = answers.filter(good), answers.filter(pc.invert(good))
    named = samples.append_column("teacher", pa.array([teacher.id] * len(samples), pa.string()))
    pq.write_table(schema.conform(named, "samples"), target / "samples.parquet")
    labels = samples.select(["sample_id", *LABELS]).rename_columns({"token_entropy": "entropy"})
    pq.write_table(schema.conform(labels, "soft_labels"), target / "soft_labels.parquet")
    step = pa.array(["generate"] * len(failed), pa.string())
    unread = pa.Table.from_pylist(tasks.of(recipe).dead_letters(), schema.schema("dead_letters"))
    letters = pa.concat_tables([unread, schema.conform(failed.append_column("step", step), "dead_letters")])
    pq.write_table(letters, target / "dead_letters.parquet")
    reasons = {row["values"]: row["counts"] for row in pc.value_counts(letters["reason"]).to_pylist()}
    work.draft.note(requested=len(answers), answered=len(samples), dead_letters=reasons)


def answer_all(requests: Path, model: Path, section: GenerateSection, scratch: Path) -> None:
    """Map the teacher over the request table into `scratch/answers`; blocks already written are not mapped again."""
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The default deletes the ids at success, after which a rerun maps and appends everything a second time.
    checkpoint = CheckpointConfig("sample_id", str(scratch / "answered"), delete_checkpoint_on_success=False)
    checkpoint.checkpoint_actor_memory_bytes, checkpoint.checkpoint_actor_pool_max_size = 256 << 20, 1
    context.checkpoint_config = checkpoint
    rows = pq.read_metadata(requests).num_rows
    try:
        answers = (
            ray.data.read_parquet(str(requests))
            .repartition(target_num_rows_per_block=-(-rows // section.blocks))
            .map_batches(
                Answerer,
                fn_constructor_args=(str(model), section.hidden_layer is not None),
                batch_size=section.batch_size,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=section.concurrency),
                num_cpus=section.cpus,  # of two CPUs Ray's checkpoint filter takes one and reading one
            )
        )
        answers.write_parquet(str(scratch / ANSWERS), mode=ray.data.SaveMode.APPEND)
    finally:
        context.checkpoint_config = None


class Answerer:
    """One teacher in a Ray Data actor: a batch of requests in, the same rows with answers and soft labels out."""

    def __init__(self, model: str, keep_hidden: bool) -> None:
        import torch

        from serving.teachers import transformers

        torch.set_num_threads(1)
        self.teacher: Any = transformers.load(model)
        self.keep_hidden = keep_hidden

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`batch` with status, response, confidence, entropy and the soft-label columns, row by row."""
        rows = batch.to_pylist()
        prompts, outcome = {}, {}
        for index, row in enumerate(rows):
            try:
                prompts[index] = self.teacher.prompt({"text": row["prompt"], "images": row["images"] or ()})
            except ValueError as error:  # BundleError: this row cannot be read; every other row goes on
                outcome[index] = _rejected(row["sample_id"], error)
        if prompts:
            temperature, seeds = rows[0]["temperature"], [rows[index]["seed"] for index in prompts]
            replies = self.teacher.complete(list(prompts.values()), temperature, seeds)
            for index, reply in zip(prompts, replies, strict=True):
                outcome[index] = self._answered(rows[index]["sample_id"], reply)
        columns = pa.Table.from_pylist([outcome[index] for index in range(len(rows))], ANSWER_SCHEMA)
        for field in ANSWER_SCHEMA:
            if field.name != "sample_id":
                batch = batch.append_column(field, columns[field.name])
        return batch

    def _answered(self, sample_id: str, reply: Any) -> Mapping[str, Any]:
        label = soft_labels.record(sample_id, reply, self.keep_hidden)
        entropy = label.pop("entropy")
        about = {
            "response": reply.text,
            "confidence": reply.confidence,
            "entropy": float(np.mean(entropy, dtype=np.float32)),
        }
        return label | about | {"token_entropy": entropy, "status": "ok", "attempts": 1}


def _rejected(sample_id: str, error: Exception) -> Mapping[str, Any]:
    reason = str(error).partition(":")[0]
    return {
        "sample_id": sample_id,
        "status": "rejected",
        "reason": f"unreadable_{reason}",
        "detail": str(error),
        "attempts": 1,
    }


def _refuse_lost_rows(answers: pa.Table, requested: int) -> None:
    distinct = pc.count_distinct(answers["sample_id"]).as_py()
    if distinct != requested or len(answers) != requested:
        reason = f"{requested} requests, {len(answers)} answers, {distinct} distinct"
        raise StepFailed("generate", reason, "remove the artifact's scratch folder and run again")


def _answer_schema() -> pa.Schema:
    own = ("response", "confidence", "entropy", "status", "reason", "attempts")
    fields = [schema.schema("samples").field(name) for name in ("sample_id", *own)]
    labels = schema.schema("soft_labels")
    fields += [labels.field(name.removeprefix("token_")).with_name(name) for name in LABELS]
    return pa.schema([field.with_nullable(True) for field in fields] + [pa.field("detail", pa.string())])


ANSWER_SCHEMA = _answer_schema()
STEP = Step("generate", "samples", 1, ("generate",), (fit.STEP,), body)
