"""One teacher in a Ray Data actor: requests in, the same rows with answers, soft labels or the reason for none.

A row's trouble stays its own: an unreadable row is set aside, a batch that raises is halved until the row is found that
does it, and that row is asked again before it is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster import schema
from cluster.recipe import GenerateSection, ModelSection
from jobs.data import labels as forms
from jobs.data.items import item_of
from jobs.data.tally import Tally
from jobs.tasks import soft_labels
from serving.teachers import Failure, Reply, Sharing, Teacher, open_folder, show_layers

log = logging.getLogger(__name__)
LABELS = tuple(name for name in schema.COLUMNS["soft_labels"] if name != "sample_id")
# Both tables have an entropy and the requests a temperature: the labels' own get a prefix while they share a row.
COLUMN = {name: name for name in LABELS} | {"entropy": "token_entropy", "temperature": "label_temperature"}


@dataclass(frozen=True)
class Asked:
    """A request of a batch: its place there, its row, and what the teacher reads."""

    place: int
    row: Mapping[str, Any]
    prompt: Any


@dataclass(frozen=True)
class Answered:
    """What came back: the reply or failure, its packed labels where they were made on the way, and how often the row
    was asked."""

    asked: Asked
    reply: Reply | Failure
    packed: Mapping[str, Any] | None
    attempts: int


@dataclass(frozen=True)
class Opening:
    """How a teacher's folder is opened: the recipe's `section` as it is now (None: as it was written down), and the
    `ledger` that its budget goes on with (see `serving.teachers.budget`)."""

    section: ModelSection | None = None
    ledger: Path | None = None


AS_WRITTEN = Opening()


class Answerer:
    """`model` is a folder that `serving.teachers.open_folder` reads; `tally` the folder where progress is left."""

    def __init__(self, model: str, section: GenerateSection, tally: str, opening: Opening = AS_WRITTEN) -> None:
        import torch

        torch.set_num_threads(1)
        sharing = Sharing(section.concurrency, opening.ledger)
        self.teacher: Teacher = open_folder(model, sharing=sharing, section=opening.section)
        if section.hidden_layers:
            show_layers(self.teacher, section.hidden_layers)
        self.section, self.tally = section, Tally(tally)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`batch` with status, response, confidence, entropy and the soft-label columns, row by row."""
        rows = batch.to_pylist()
        outcome: dict[int, Mapping[str, Any]] = {}
        groups: dict[float, list[Asked]] = {}
        for place, row in enumerate(rows):
            try:
                prompt = self.teacher.prompt(item_of(row) | {"slice": row["slice"]})
            except ValueError as error:  # BundleError: this row cannot be read; every other row goes on
                outcome[place] = _rejected(row["sample_id"], f"unreadable_{_reason(error)}", str(error), 1)
                continue
            groups.setdefault(row["temperature"], []).append(Asked(place, row, prompt))
        for temperature, group in groups.items():
            for answered in self._ask(group, temperature):
                outcome[answered.asked.place] = self._outcome(answered)
        self.tally.add(rows=len(rows), rejected=sum(one["status"] == "rejected" for one in outcome.values()))
        columns = pa.Table.from_pylist([outcome[place] for place in range(len(rows))], ANSWER_SCHEMA)
        for field in ANSWER_SCHEMA:
            if field.name != "sample_id":
                batch = batch.append_column(field, columns[field.name])
        return batch

    def _ask(self, group: Sequence[Asked], temperature: float) -> Iterator[Answered]:
        """Every row answered or failed. What a teacher raises is not known beforehand: whatever it is, the rows that do
        not cause it are answered, and the one that does is asked `attempts` times by itself."""
        waiting: list[tuple[Sequence[Asked], int, int]] = [(group, 0, 0)]  # rows, calls before, calls of one row alone
        while waiting:
            part, calls, alone = waiting.pop()
            try:
                answered = self._complete(part, temperature, calls + 1)
            except Exception as error:
                half, alone = len(part) // 2, alone + (len(part) == 1)
                if half:
                    waiting += [(part[half:], calls + 1, 0), (part[:half], calls + 1, 0)]
                elif alone < self.section.attempts:
                    waiting.append((part, calls + 1, alone))
                else:
                    log.exception("request %s is given up after %s calls", part[0].row["sample_id"], calls + 1)
                    yield Answered(part[0], Failure(_name(error), f"{error}"[:500], calls + 1), None, calls + 1)
                continue
            yield from answered

    def _complete(self, part: Sequence[Asked], temperature: float, calls: int) -> list[Answered]:
        from serving.teachers.causal import CausalTeacher

        prompts, seeds = [one.prompt for one in part], [one.row["seed"] for one in part]
        teacher = self.teacher
        packer = None
        if (
            isinstance(teacher, CausalTeacher)
            and forms.form_of(self.section.labels, len(teacher.vocabulary)) != "dense"
        ):
            packer = forms.StepPacker(self.section.labels, [int(one.row["sample_id"], 16) for one in part])
            replies: Sequence[Reply | Failure] = teacher.complete(prompts, temperature, seeds, packer=packer)
        else:
            replies = teacher.complete(prompts, temperature, seeds)
        return [
            Answered(one, reply, packer.packed(place) if packer else None, calls - 1 + reply.attempts)
            for place, (one, reply) in enumerate(zip(part, replies, strict=True))
        ]

    def _outcome(self, answered: Answered) -> Mapping[str, Any]:
        reply, sample_id = answered.reply, answered.asked.row["sample_id"]
        if reply.usage is not None:
            self.tally.add(tokens=reply.usage.input_tokens + reply.usage.output_tokens, cost=reply.usage.cost)
        elif isinstance(reply, Reply) and reply.tokens is not None:
            self.tally.add(tokens=len(reply.tokens))
        if isinstance(reply, Failure):
            return _rejected(sample_id, reply.reason, reply.detail, answered.attempts)
        try:
            keep_hidden = bool(self.section.kept_layers)
            label = soft_labels.record(sample_id, reply, keep_hidden, self.section.labels, answered.packed)
        except ValueError as error:  # NaN out of the network: this row's answer is worth nothing
            return _rejected(sample_id, _reason(error), str(error), answered.attempts)
        about = {
            "response": reply.text, "confidence": reply.confidence, "status": "ok", "attempts": answered.attempts,
            "entropy": float(np.mean(label["entropy"], dtype=np.float32)) if "entropy" in label else None,
        }  # fmt: skip
        return {COLUMN[name]: label[name] for name in LABELS if name in label} | about | {"sample_id": sample_id}


def labels_of(answers: pa.Table) -> pa.Table:
    """The soft-label table of answered rows; rows whose teacher shows no logits have none."""
    columns = ["sample_id", *COLUMN.values()]
    labelled = answers.filter(answers["positions"].is_valid())
    return schema.conform(labelled.select(columns).rename_columns(["sample_id", *LABELS]), "soft_labels")


def with_labels(samples: pa.Table, labels: pa.Table) -> pa.Table:
    """Answered rows as they were mapped, of the two tables that were made of them: `labels_of` turned round.

    Rows keep the order of `samples`; those without soft labels get nulls.
    """
    import pyarrow.compute as pc

    place = pc.index_in(samples["sample_id"].combine_chunks(), labels["sample_id"].combine_chunks())
    own = labels.take(place)
    for name in LABELS:
        samples = samples.append_column(ANSWER_SCHEMA.field(COLUMN[name]), own[name])
    return samples.append_column(ANSWER_SCHEMA.field("detail"), pa.nulls(len(samples), pa.string()))


def _rejected(sample_id: str, reason: str, detail: str, attempts: int) -> Mapping[str, Any]:
    return {
        "sample_id": sample_id, "status": "rejected", "reason": reason, "detail": detail, "attempts": attempts,
    }  # fmt: skip


def _reason(error: Exception) -> str:
    return str(error).partition(":")[0]


def _name(error: Exception) -> str:
    return f"raised_{type(error).__name__}"


def _answer_schema() -> pa.Schema:
    own = ("sample_id", "response", "confidence", "entropy", "status", "reason", "attempts")
    fields = [schema.schema("samples").field(name) for name in own]
    labels = schema.schema("soft_labels")
    fields += [labels.field(name).with_name(COLUMN[name]) for name in LABELS]
    return pa.schema([field.with_nullable(True) for field in fields] + [pa.field("detail", pa.string())])


ANSWER_SCHEMA = _answer_schema()
