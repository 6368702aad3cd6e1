"""Train the student on the teacher's signals, stage by stage, and beside it the control arm on true labels.

Hands on the student's Hugging Face folder with its training history, and the control arm as an artifact of its own.
Both start from the same weights and take the same steps; on a cluster with room they train at the same time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import pauses
from cluster.recipe import Recipe, Stage, Term
from cluster.store import Artifact
from jobs import curate, fit, generate, tasks
from jobs.before import continued, sheets
from jobs.step import Step, Work, run_name
from jobs.training import students
from jobs.training.run import Arm, train_arm

# Both arms start at once, each in a thread: transformers' lazy imports are not safe there, and the seed is global.
_BUILDING = threading.Lock()


def body(work: Work) -> None:
    """Write `hf/`, `history.json` and `unmerged.json` (key/value bytes before the heads were merged) of the student."""
    train_arm(work, student_arm(work))


def student_arm(work: Work) -> Arm:
    """The student's packed rows and first weights; leaves `unmerged.json` in the draft."""
    recipe = work.recipe
    pauses.refuse(work.store, recipe.promote.model_name, "distill", run_name(recipe))
    task = tasks.of(recipe)
    samples, labels = curated(work.parents)
    known = measured(samples, work.parents["curated"])
    earlier = continued.find(recipe, work.store)
    if earlier is not None:
        old, old_labels = curated(earlier.artifacts)
        rows = continued.replayed(recipe.distill, samples, old, recipe.seed)
        known = _joined(known, measured(old.take(rows), earlier.artifacts["curated"]))
        samples, labels = pa.concat_tables([samples, old.take(rows)]), pa.concat_tables([labels, old_labels.take(rows)])
        work.draft.note(continued=earlier.run, replayed=len(rows))
    columns = {**task.pack(samples, labels, true_labels=False), **known}
    hidden = columns["teacher_hidden"].shape[-1] if "teacher_hidden" in columns else 0
    initial, kv_bytes = _initial(work)
    (work.draft.path / "unmerged.json").write_text(json.dumps({"kv_bytes_per_token": kv_bytes}))
    teacher = work.parents["teacher"].path() / "hf"
    stages, seed = recipe.distill.active, recipe.distill.seed
    return Arm("distill", initial, columns, recipe.distill, stages, hidden, teacher, seed)


def control_body(work: Work) -> None:
    """Write `hf/` and `history.json` of the control arm: every answered row with its true label, cross entropy only."""
    recipe = work.recipe
    labelled = _labelled(work.parents)
    known, kept = measured(labelled, work.parents["curated"]), int(work.parents["curated"].manifest.facts["kept"])
    earlier = continued.find(recipe, work.store)
    if earlier is not None:
        old = _labelled(earlier.artifacts)
        rows = continued.replayed(recipe.distill, labelled, old, recipe.seed)
        known = _joined(known, measured(old.take(rows), earlier.artifacts["curated"]))
        labelled = pa.concat_tables([labelled, old.take(rows)])
        kept += round(recipe.distill.replay_share / (1 - recipe.distill.replay_share) * kept)
    columns = {**tasks.of(recipe).pack(labelled, None, true_labels=True), **known}
    initial, _ = _initial(work)
    scale = kept / len(labelled)
    stages = hard_label_stages(recipe.distill.active, scale)
    arm = Arm("control", initial, columns, recipe.distill, stages, seed=recipe.distill.seed)
    train_arm(work, arm)


def curated(parents: Mapping[str, Artifact]) -> tuple[pa.Table, pa.Table]:
    """Samples and soft labels that curation kept, matched by `sample_id` and ordered by it."""
    verdicts = pq.read_table(parents["curated"].path() / "curation.parquet")
    kept = verdicts.filter(verdicts["kept"])["sample_id"].combine_chunks().sort()
    folder, tables = parents["samples"].path(), []
    for name in ("samples", "soft_labels"):
        table = pq.read_table(folder / f"{name}.parquet")
        tables.append(table.take(pc.index_in(kept, table["sample_id"].combine_chunks())))
    curated = parents["curated"].path()
    return sheets.overlay_samples(tables[0], curated), sheets.overlay_labels(tables[1], curated)


def _labelled(parents: Mapping[str, Artifact]) -> pa.Table:
    samples = pq.read_table(parents["samples"].path() / "samples.parquet")
    samples = sheets.overlay_samples(samples, parents["curated"].path())
    return samples.filter(pc.is_valid(samples["label_name"]))


def _joined(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([values, other[name]]) for name, values in one.items()}


def measured(samples: pa.Table, curated: Artifact) -> dict[str, np.ndarray]:
    """What stages may choose rows by, float32 [R] each in the order of `samples`: `confidence` of the teacher, and
    `difficulty` from 0, where its margin is largest, to 1. Rows without soft labels count as hardest and least sure.

    The control arm has the same: then the two arms differ in what they are taught, not in the order.
    """
    verdicts = pq.read_table(curated.path() / "curation.parquet", columns=["sample_id", "confidence", "difficulty"])
    places = pc.index_in(samples["sample_id"].combine_chunks(), verdicts["sample_id"].combine_chunks())
    own = verdicts.take(places)
    unknown = {"confidence": 0.0, "difficulty": 1.0}
    return {name: np.asarray(pc.fill_null(own[name], rest), np.float32) for name, rest in unknown.items()}


def hard_label_stages(stages: Sequence[Stage], scale: float) -> tuple[Stage, ...]:
    """The same stages with cross entropy alone: same rates, rows, curriculum and merged heads, epochs times `scale`.

    `scale` is rows of the student over rows of the control arm, so that both take the same number of steps. A stage
    that stops early stops by the control's own validation, not where the student's did: it has the same most steps and
    the same rule, and cut at the student's step its learning rate would never have come down.
    """
    alone: dict[str, object] = {"losses": [Term(name="cross_entropy")], "adapters": False}
    alone |= {"layers": None, "on_policy": None, "live_teacher": False}
    return tuple(s.model_copy(update={**alone, "epochs": s.epochs * scale}) for s in stages)


def rounding(recipe: Recipe) -> Mapping[str, Any]:
    """What stages with `quantize` train for, an input of both arms; empty where no stage does."""
    if not any(stage.quantize for stage in recipe.distill.active):
        return {}
    return {"rounding": {"scheme": recipe.export.scheme, "block_size": recipe.export.block_size}}


def untaught(recipe: Recipe) -> Mapping[str, Any]:
    """The inputs of the control arm: `distill` without what only the teacher's student sees, so that recipes which
    differ in losses, temperatures, adapters or layers alone have one control arm and train it once."""
    stages = list(hard_label_stages(recipe.distill.stages, 1.0))
    alone = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"stages": stages})})
    return {**alone.part("distill"), **rounding(recipe)}


def _initial(work: Work) -> tuple[Path, int]:
    """Folder of the student's starting weights, the same for both arms, and its key/value bytes per token (0: none)."""
    recipe, folder = work.recipe, work.draft.scratch / "initial"
    task = tasks.of(recipe)
    earlier = continued.find(recipe, work.store)
    with _BUILDING:
        if earlier is not None:
            network = task.load(str(earlier.folder("student")))
        else:
            network = students.begin(recipe, task, work.parents["teacher"].path() / "hf")
    folder.mkdir(exist_ok=True)
    task.save(network, folder)
    if earlier is not None:  # its heads are merged already
        unmerged = json.loads((earlier.artifacts["student"].path() / "unmerged.json").read_text())
        return folder, int(unmerged["kv_bytes_per_token"])
    return folder, task.kv_bytes(network)


PARENTS = (fit.STEP, generate.STEP, curate.STEP)
STEP = Step("distill", "student", 1, ("student", "distill"), PARENTS, body, rounding)
CONTROL = Step("control", "control", 1, ("student",), PARENTS, control_body, untaught)
