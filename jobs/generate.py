"""The teacher answers the requests: samples, soft labels and dead letters, under Ray Data.

The request table is written first; then read -> repartition -> map -> one write, the shape that Ray Data's checkpoint
resumes per block. A row that cannot be answered becomes a dead letter with its reason and never ends the run. Answers
that the same teacher gave before are taken over; rounds ask for what the rounds before left missing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import RecipeError, StepFailed
from cluster.recipe import GenerateSection, Recipe
from cluster.session import placed
from cluster.store import Artifact
from jobs import fit, tasks
from jobs.data import reuse, tally
from jobs.data.answers import AS_WRITTEN, Answerer, Opening, labels_of
from jobs.data.judging import refusals
from jobs.data.labels import reader
from jobs.data.requests import back_translation, expand, given, rounds
from jobs.step import Step, Work
from serving import teachers

ANSWERS, REUSED, TALLY = "answers", "reused.parquet", "tally"
Choose = Callable[[pa.Table], pa.Table]  # of all requests those that are asked


@dataclass(frozen=True)
class Round:
    """One round: its scratch folder, the recipe, the teacher's folder and how it is opened, and whose answers may be
    taken over."""

    folder: Path
    recipe: Recipe
    model: Path
    opening: Opening
    sources: Sequence[Artifact]


def check(recipe: Recipe) -> None:
    """Refuse templates, temperatures, draws and rounds that cannot work, before Ray starts. Raises RecipeError."""
    section = recipe.generate
    expand.check(section)
    back_translation.check(recipe)
    given.check(recipe)
    if section.rounds > 1 and section.samples < section.rounds:
        expected = f"generate.samples of at least {section.rounds}"
        raise RecipeError("generate.rounds: nothing to choose between", got=section.samples, expected=expected)


def body(work: Work) -> None:
    """Write `samples.parquet`, `soft_labels.parquet` and `dead_letters.parquet`, ordered by `sample_id`."""
    answer(work, lambda pool: pool)


def answer(work: Work, choose: Choose) -> None:
    """The same of the requests that `choose` takes, as a pilot does."""
    recipe, section, target = work.recipe, work.recipe.generate, work.draft.path
    teacher = work.parents["teacher"]
    identity = reuse.identity(teacher, section)
    answers, reused = _all_rounds(work, reuse.find(work.store, section, identity), choose)
    good = pc.equal(answers["status"], "ok")
    samples, failed = answers.filter(good), answers.filter(pc.invert(good))
    named = samples.append_column("teacher", pa.array([teacher.id] * len(samples), pa.string()))
    pq.write_table(schema.conform(named, "samples"), target / reader.SAMPLES)
    labels = labels_of(samples)
    reader.write(labels, target / reader.LABELS)
    step = pa.array(["generate"] * len(failed), pa.string())
    unread = pa.Table.from_pylist(tasks.of(recipe).dead_letters(), schema.schema("dead_letters"))
    letters = pa.concat_tables([unread, schema.conform(failed.append_column("step", step), "dead_letters")])
    pq.write_table(letters, target / "dead_letters.parquet")
    reasons = {row["values"]: row["counts"] for row in pc.value_counts(letters["reason"]).to_pylist()}
    _refuse_too_few(len(samples), len(answers), section.min_answered, reasons)
    spent = tally.total(*work.draft.scratch.glob(f"*/{TALLY}"))
    work.draft.note(
        requested=len(answers), answered=len(samples), reused=reused, labelled=len(labels), dead_letters=reasons,
        identity=identity, bytes_per_token=reader.sizes(target / reader.LABELS),
        tokens=int(spent["tokens"]), cost=spent["cost"],
    )  # fmt: skip


def _all_rounds(work: Work, sources: Sequence[Artifact], choose: Choose) -> tuple[pa.Table, int]:
    """Answers to everything asked, ordered by `sample_id`, and how many of them were taken over (rows)."""
    section, scratch = work.recipe.generate, work.draft.scratch
    model = work.parents["teacher"].path() / "hf"
    opening = Opening(work.recipe.teacher, scratch / "spent.json")
    pool = _kept(scratch / "pool.parquet", lambda: choose(candidates(work.recipe, opening.ledger)))
    seed = work.recipe.seed + section.seed
    found, reused = pool.slice(0, 0), 0
    for number in range(section.rounds):
        here = Round(scratch / f"round-{number}", work.recipe, model, opening, sources)
        here.folder.mkdir(exist_ok=True)
        budget = len(pool) if section.rounds == 1 else _share(section.samples, section.rounds, number)
        answered, taken = _ask(here, pool, found, (budget, seed))
        if number:
            answered = pa.concat_tables([found, answered.select(found.column_names).cast(found.schema)])
        found = answered
        reused += taken
    return found.sort_by("sample_id"), reused


def _ask(here: Round, pool: pa.Table, found: pa.Table, draw: tuple[int, int]) -> tuple[pa.Table, int]:
    """Choose one round's requests (`draw`: budget in rows, seed), take over what is known, ask for the rest."""
    (budget, seed), section = draw, here.recipe.generate

    def choose() -> pa.Table:
        if section.rounds == 1:
            return pool
        return rounds.next_requests(pool, found, refusals(here.recipe, found) if len(found) else [], budget, seed)

    asked = _kept(here.folder / "asked.parquet", choose)
    taken = _kept(here.folder / REUSED, lambda: reuse.answered(asked, list(here.sources)))
    missing = asked.filter(pc.invert(pc.is_in(asked["sample_id"], taken["sample_id"].combine_chunks())))
    if not len(missing):
        return taken, len(taken)
    requests = here.folder / "requests" / "requests.parquet"
    requests.parent.mkdir(exist_ok=True)
    _kept(requests, lambda: missing)
    progress = here.folder.parent / tally.PROGRESS
    with tally.Meter(here.folder / TALLY, progress, len(missing)):
        answer_all(requests, here.model, section, here.folder, opening=here.opening)
    answers = pq.read_table(here.folder / ANSWERS)
    _refuse_lost_rows(answers, len(missing))
    return pa.concat_tables([answers, taken.select(answers.column_names).cast(answers.schema)]), len(taken)


def candidates(recipe: Recipe, ledger: Path | None = None) -> pa.Table:
    """Every request that may be asked: all of them in one round, `generate.pool` times `samples` for several.

    A teacher that translates on the way enters what it spends into `ledger`.
    """
    section = recipe.generate
    limit = section.samples if section.rounds == 1 else math.ceil(section.samples * section.pool)
    rows = math.ceil(limit / expand.combinations(section))
    base = recipe.model_copy(update={"generate": section.model_copy(update={"samples": rows})})
    requests = tasks.of(base).requests("train") if section.requests is None else given.requests(base)
    if section.back_translate:
        translator = teachers.open_teacher(recipe.teacher, sharing=teachers.Sharing(ledger=ledger))
        requests = back_translation.extended(requests, section, translator, recipe.seed + section.seed)
    return expand.expand(requests, section.model_copy(update={"samples": limit}))


def answer_all(
    requests: Path, model: Path, section: GenerateSection, scratch: Path, answerer: type[Answerer] = Answerer,
    opening: Opening = AS_WRITTEN,
) -> None:  # fmt: skip
    """Map the teacher over the request table into `scratch/answers`; blocks already written are not mapped again.

    `opening` says how the teacher's folder is opened.
    """
    if teachers.drives_ray(model):
        own = (str(model), section, str(scratch / TALLY), opening)
        return answer_here(requests, section, scratch, lambda: answerer(*own))
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
                answerer,
                fn_constructor_args=(str(model), section, str(scratch / TALLY), opening),
                batch_size=section.batch_size,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=section.concurrency),
                num_cpus=section.cpus,  # of two CPUs Ray's checkpoint filter takes one and reading one
                num_gpus=section.gpus or None,
                **placed("generate"),
            )
        )
        answers.write_parquet(str(scratch / ANSWERS), mode=ray.data.SaveMode.APPEND)
    finally:
        context.checkpoint_config = None


def answer_here(requests: Path, section: GenerateSection, scratch: Path, open_answerer: Callable[[], Answerer]) -> None:
    """The same in this process, for a teacher that starts Ray pipelines of its own: `generate.blocks` parts one after
    the other, each written whole; a resume asks for the parts that are not there."""
    table, opened = pq.read_table(requests), functools.cache(open_answerer)
    rows = -(-len(table) // section.blocks)
    for start in range(0, len(table), rows):
        part = scratch / ANSWERS / f"part-{start:09d}.parquet"
        part.parent.mkdir(exist_ok=True)
        _kept(part, lambda start=start: opened()(table.slice(start, rows)))  # type: ignore[misc]


def _kept(path: Path, make: Callable[[], pa.Table]) -> pa.Table:
    """The table in `path`, made and written whole where it is not there yet: a resume sees what the first try saw."""
    if not path.is_file():
        aside = path.with_suffix(".new")
        pq.write_table(make(), aside)
        aside.replace(path)
    return pq.read_table(path)


def _share(total: int, parts: int, number: int) -> int:
    return total * (number + 1) // parts - total * number // parts


def _refuse_lost_rows(answers: pa.Table, requested: int) -> None:
    distinct = pc.count_distinct(answers["sample_id"]).as_py()
    if distinct != requested or len(answers) != requested:
        reason = f"{requested} requests, {len(answers)} answers, {distinct} distinct"
        raise StepFailed("generate", reason, "remove the artifact's scratch folder and run again")


def _refuse_too_few(answered: int, asked: int, least: float, reasons: dict[str, int]) -> None:
    if answered < max(1, least * asked):
        reason = f"{answered} of {asked} requests were answered, at least {least:.0%} are needed: {reasons}"
        raise StepFailed("generate", reason, "see what the teacher says of itself, then run again")


def _inputs(recipe: Recipe) -> dict[str, Any]:
    # Between rounds the filters say what is still missing.
    return {**(recipe.part("curate") if recipe.generate.rounds > 1 else {}), **given.identity(recipe)}


STEP = Step("generate", "samples", 2, ("generate",), (fit.STEP,), body, _inputs)
