"""Train the student on the teacher's signals, stage by stage, and beside it the control arm on true labels.

Hands on the student's Hugging Face folder with its training history, and the control arm as an artifact of its own.
Both start from the same weights and take the same steps; on a cluster with room they train at the same time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.recipe import Stage, Term
from cluster.store import Artifact
from jobs import curate, fit, generate, tasks
from jobs.before import sheets
from jobs.step import Step, Work
from jobs.training.run import Arm, train_arm

# Both arms start at once, each in a thread: transformers' lazy imports are not safe there, and the seed is global.
_BUILDING = threading.Lock()


def body(work: Work) -> None:
    """Write `hf/`, `history.json` and `unmerged.json` (key/value bytes before the heads were merged) of the student."""
    recipe = work.recipe
    task = tasks.of(recipe)
    samples, labels = curated(work.parents)
    columns = task.pack(samples, labels, true_labels=False)
    hidden = columns["teacher_hidden"].shape[-1] if "teacher_hidden" in columns else 0
    initial, kv_bytes = _initial(work)
    (work.draft.path / "unmerged.json").write_text(json.dumps({"kv_bytes_per_token": kv_bytes}))
    arm = Arm("distill", initial, columns, recipe.distill, tuple(recipe.distill.stages), hidden)
    train_arm(recipe, arm, work.draft.scratch, work.draft.path)


def control_body(work: Work) -> None:
    """Write `hf/` and `history.json` of the control arm: every answered row with its true label, cross entropy only."""
    recipe = work.recipe
    samples = pq.read_table(work.parents["samples"].path() / "samples.parquet")
    samples = sheets.overlay_samples(samples, work.parents["curated"].path())
    labelled = samples.filter(pc.is_valid(samples["label_name"]))
    columns = tasks.of(recipe).pack(labelled, None, true_labels=True)
    initial, _ = _initial(work)
    scale = work.parents["curated"].manifest.facts["kept"] / len(labelled)
    arm = Arm("control", initial, columns, recipe.distill, hard_label_stages(recipe.distill.stages, scale))
    train_arm(recipe, arm, work.draft.scratch, work.draft.path)


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


def hard_label_stages(stages: Sequence[Stage], scale: float) -> tuple[Stage, ...]:
    """The same stages with cross entropy alone: same rates, curriculum and merged heads, epochs times `scale`.

    `scale` is rows of the student over rows of the control arm, so that both take the same number of steps.
    """
    own = [Term(name="cross_entropy")]
    return tuple(s.model_copy(update={"losses": own, "adapters": False, "epochs": s.epochs * scale}) for s in stages)


def _initial(work: Work) -> tuple[Path, int]:
    """Folder of the student's starting weights, the same for both arms, and its key/value bytes per token (0: none)."""
    recipe, folder = work.recipe, work.draft.scratch / "initial"
    task = tasks.of(recipe)
    with _BUILDING:
        network = task.build(recipe.student, recipe.seed, work.parents["teacher"].path() / "hf")
    folder.mkdir(exist_ok=True)
    task.save(network, folder)
    return folder, task.kv_bytes(network)


STEP = Step("distill", "student", 1, ("student", "distill"), (fit.STEP, generate.STEP, curate.STEP), body)
CONTROL = Step("control", "control", 1, ("student", "distill"), (fit.STEP, generate.STEP, curate.STEP), control_body)
