"""Every model of a run, asked the same questions: what it answered, how large it is, and the engine it is timed on."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from cluster.measured import BASELINE, CONTROL, STUDENT, STUDENT_INT8, TEACHER
from jobs.export import engine_bytes
from jobs.measure import baselines, sizes
from jobs.measure.exam import Exam
from jobs.measure.latency import Engine
from serving import teachers
from serving.bundle import predict

SERVED, BESIDE = "the bundle that is served", "beside the bundle that is served"


@dataclass(frozen=True)
class Contender:
    """One model: its `answers` in the exam's order, its sizes (null: it has none), and its `engine` at batch 1 (null:
    not timed)."""

    answers: Sequence[predict.Answer]
    params: int | None
    params_non_embedding: int | None
    bytes: int | None
    kv_bytes_per_token: int | None
    engine: Engine | None
    note: str

    @property
    def texts(self) -> list[str]:
        """The answers alone."""
        return [answer.text for answer in self.answers]


def ask_all(exam: Exam, models: Mapping[str, Path], bundle: Path, samples: pa.Table, task: str) -> dict[str, Contender]:
    """teacher, student, student_int8, control (where `models` has one) and baseline, in the report's order.

    `models` are Hugging Face folders by name, answered from in torch. The INT8 student is the bundle that is served,
    asked row by row as a server does that never pads; the two float32 bundles below it are there to be timed.
    """
    note = "accuracy from torch, bytes and latency from float32 ONNX"
    if teachers.elsewhere(models[TEACHER]):
        teacher = from_elsewhere(exam, models[TEACHER])
    else:
        teacher = from_torch(exam, models[TEACHER], bundle / "teacher", note)
    student = from_torch(exam, models[STUDENT], bundle / "float32", note)
    asked = {TEACHER: teacher, STUDENT: student, STUDENT_INT8: from_bundle(exam, bundle, student, SERVED)}
    if CONTROL in models:
        control = from_torch(exam, models[CONTROL], bundle / "float32", "the student's network on true labels alone")
        # Same shape as the student: timing it would be timing the student twice.
        asked[CONTROL] = replace(control, engine=None)
    floor = baselines.fit(task, samples, predict.verify(bundle))
    asked[BASELINE] = Contender(
        floor.predict(exam.items), floor.params, floor.params, floor.bytes, None, floor, floor.about
    )
    return asked


def from_torch(exam: Exam, model: Path, bundle: Path, note: str) -> Contender:
    """A Hugging Face folder answering in torch by free generation, sized and timed by its float32 `bundle`."""
    from serving.teachers import transformers

    answerer = transformers.load(model)
    params, inner = sizes.parameters(answerer.model)
    answers = answerer.answer(exam.items)
    del answerer
    gc.collect()
    engine = predict.load(bundle)
    return Contender(answers, params, inner, engine_bytes(bundle), sizes.kv_bytes_per_token(engine.spec), engine, note)


def from_bundle(exam: Exam, bundle: Path, network: Contender, note: str) -> Contender:
    """A bundle of a network that was asked already, asked row by row as a server does that never pads."""
    engine = predict.load(bundle)
    answers = [engine.predict([item])[0] for item in exam.items]
    return bundled(replace(network, answers=answers), bundle, engine, note)


def bundled(network: Contender, bundle: Path, engine: predict.Answerer, note: str) -> Contender:
    """A network's contender with the file, the cache and the engine of one of its bundles."""
    kv = sizes.kv_bytes_per_token(engine.spec)
    note = f"{note}, scheme {engine.spec['scheme']}"
    return replace(network, bytes=engine_bytes(bundle), kv_bytes_per_token=kv, engine=engine, note=note)


def from_elsewhere(exam: Exam, model: Path) -> Contender:
    """A teacher whose weights lie elsewhere: a row without an answer counts as wrong, size and time are not known."""
    teacher = teachers.open_folder(model)
    replies = teacher.complete([teacher.prompt(item) for item in exam.items])
    answers = [
        predict.Answer("", 0.0) if isinstance(reply, teachers.Failure) else teachers.answer_of(reply)
        for reply in replies
    ]
    silent = sum(isinstance(reply, teachers.Failure) for reply in replies)
    return Contender(answers, None, None, None, None, None, f"asked where it runs; {silent} rows without an answer")
