"""Asks the student that a run made over HTTP, with questions it never saw, and makes it late once on purpose."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster import session
from cluster.errors import StepFailed
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import export, fit, promote, tasks
from jobs.data import items
from jobs.terminal import say
from serving.web import api

TIMEOUT_S = 30.0
LATE_SHARE = 0.25  # how far between student_ms and total_ms the delayed student would answer
SHOWN_CHARACTERS = 60


def run(recipe: Recipe, store: Store, console: Console) -> dict[str, Any]:
    """Serve the promoted bundle on a free loopback port, ask `serving.demo_requests` test rows, force one fallback.

    Returns `url`, `answers` (question, answer, truth, latency in ms), `right` (count) and the forced `fallback`. Raises
    StepFailed when a request is not answered, or when the late student is waited for although a teacher is there.
    """
    rows = _questions(recipe)
    with _served(recipe, store) as url:
        answers = [_asked(url, row) for row in rows]
        fallback = _asked(url, rows[0], delay_ms=_delay_ms(recipe)) if recipe.serving.teacher_concurrency else None
    if fallback is not None and not fallback["fell_back"]:
        raise StepFailed("demo", f"a student {_delay_ms(recipe)} ms late was not replaced by the teacher: {fallback}")
    right = sum(answer["answer"] == answer["truth"] for answer in answers)
    _show(console, url, answers, fallback, _delay_ms(recipe))
    return {"url": url, "right": right, "answers": answers, "fallback": fallback}


@contextmanager
def _served(recipe: Recipe, store: Store) -> Iterator[str]:
    """Yield the URL of the bundle that this recipe's promotion registered; it is gone afterwards."""
    from serving.deployment.app import start
    from serving.deployment.served import Names

    bundle = store.get(export.STEP.kind, export.STEP.id(recipe))
    teacher = store.get(fit.STEP.kind, fit.STEP.id(recipe))
    facts = store.get(promote.STEP.kind, promote.STEP.id(recipe)).manifest.facts
    session.connect(recipe.resources)
    names = Names(facts["model"], str(facts["version"]), teacher.id)
    running = start(bundle.path(), teacher.path() / "hf", recipe.serving, allow_fault_injection=True, names=names)
    try:
        yield running.url
    finally:
        running.stop()


def _questions(recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of the test split, spread evenly over it (the rows of a file may be sorted by class)."""
    table = tasks.of(recipe).requests("test").select([*items.COLUMNS, "label_name"])
    chosen = np.unique(np.linspace(0, len(table) - 1, min(recipe.serving.demo_requests, len(table))).astype(int))
    return list(table.take(chosen).to_pylist())


def _asked(url: str, row: Mapping[str, Any], delay_ms: int = 0) -> dict[str, Any]:
    """One request as any client would send it, and how long it took at the client (ms)."""
    asked = {name: _encoded(value) for name, value in items.item_of(row).items()}
    # Over HTTP a video is called what it is.
    body = json.dumps({"video" if name == "frames" else name: value for name, value in asked.items()}).encode()
    headers = {"content-type": "application/json"} | ({api.DELAY_HEADER: str(delay_ms)} if delay_ms else {})
    request = urllib.request.Request(f"{url}/v1/predict", body, headers)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy of the environment is not for loopback
    started = time.perf_counter()
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            reply = json.load(response)
    except urllib.error.HTTPError as error:
        raise StepFailed("demo", f"HTTP {error.code}: {error.read().decode(errors='replace')}") from error
    except (urllib.error.URLError, TimeoutError) as error:
        raise StepFailed("demo", f"{url} does not answer: {error}") from error
    took = round((time.perf_counter() - started) * 1000, 1)
    told = {name: reply[name] for name in ("model", "version", "fell_back", "reason")}
    return {
        "question": row["prompt"],
        "pictures": len(asked["images"]),
        "answer": reply["text"],
        "truth": row["label_name"],
        "latency_ms": took,
        **told,
    }


def _encoded(value: Any) -> Any:
    """Bytes as base64 text, alone or in a list; what is no bytes as it is."""
    if isinstance(value, list):
        return [_encoded(one) for one in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _delay_ms(recipe: Recipe) -> int:
    """Late enough for the teacher to be asked, and early enough that the student's thread is soon free again."""
    serving = recipe.serving
    return int(min(serving.student_ms + LATE_SHARE * (serving.total_ms - serving.student_ms), api.DELAY_MS_MAX))


def _show(
    console: Console, url: str, answers: Sequence[Mapping[str, Any]], fallback: Mapping[str, Any] | None, delay_ms: int
) -> None:
    right = sum(answer["answer"] == answer["truth"] for answer in answers)
    table = Table(
        "question",
        "answer",
        "truth",
        "ms",
        "answered by",
        box=None,
        title=f"asked over HTTP at {url}",
        title_justify="left",
    )
    for one in [*answers, *([fallback] if fallback else [])]:
        pictures = f" ({one['pictures']} pictures)" if one["pictures"] > 1 else ""
        who = f"{one['model']} {one['version']}" + (f" (fallback: {one['reason']})" if one["fell_back"] else "")
        cells = [
            one["question"][:SHOWN_CHARACTERS] + pictures,
            one["answer"],
            str(one["truth"]),
            f"{one['latency_ms']:.1f}",
            who,
        ]
        table.add_row(*map(Text, cells))
    say(console, table)
    say(console, f"{right} of {len(answers)} right")
    if fallback is not None:
        say(console, f"the last one with the student made {delay_ms} ms late: the teacher answered instead")
