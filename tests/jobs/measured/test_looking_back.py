"""Two reports side by side, the model card, and the documented schema, on the report of a real run."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.store import Artifact
from jobs import evaluate
from jobs.after import beyond_plots, card, compare, page

DOCS = Path(__file__).resolve().parents[3] / "docs" / "report.md"
# Mappings whose keys are names of this run's own things.
NAMED = {
    "resolved", "metrics", "models", "shares", "before", "after", "reasons", "dead_letters", "artifacts", "seconds",
    "evaluate_seconds", "not_measured", "params", "intervals", "engines", "clean", "changed", "prices", "per_1000",
    "licences", "written",
}  # fmt: skip
MODELS = {"teacher", "student", "student_int8", "control", "baseline"}


@pytest.fixture
def values(report: Artifact) -> dict[str, Any]:
    return evaluate.report_of(report)


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Every key of a report that is not the name of something."""
    if isinstance(value, list):
        for one in value:
            yield from keys(one, path)
    if isinstance(value, Mapping):
        last = path.rpartition(".")[2]
        for key, own in value.items():
            named = last in NAMED | {"slices"} or path == "curation.gates" or re.fullmatch(r"intervals\.\w+", path)
            if not named and key not in MODELS:
                yield key
            if last != "resolved" and key != "resolved":
                yield from keys(own, f"{path}.{key}" if path else key)


def test_every_key_of_a_report_is_documented(values: dict[str, Any]) -> None:
    documented = set(re.findall(r"`([a-z0-9_]+)`", DOCS.read_text()))
    assert set(keys(values)) - documented == set()


def test_a_report_beside_itself_moves_nothing_and_beside_another_says_what_moved(values: dict[str, Any]) -> None:
    same = compare.document(values, values)
    assert {row["change"] for row in same["rows"] if row["change"] is not None} == {0}
    assert same["recipe"] == []
    other = json.loads(json.dumps(values))
    other["recipe"]["resolved"]["distill"]["batch_size"] = 7
    other["models"]["student_int8"]["latency_ms"]["p50"] *= 2
    other["gates"][0]["passed"] = not values["gates"][0]["passed"]
    del other["models"]["control"]
    found = compare.document(values, other)
    assert [one["field"] for one in found["recipe"]] == ["distill.batch_size"]
    moved = {row["what"]: compare.moved(row) for row in found["rows"]}
    assert moved["student INT8, p50"].startswith("+") and moved["student INT8, exact match"] == "="
    assert moved["control arm, exact match"] == "\u2013"
    text = compare.page(found)
    assert "distill.batch_size" in text and not re.search(r"<script|<link|https?://", text)
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=120).print(compare.show(found, Path("there.html")))
    assert "distill.batch_size" in stream.getvalue() and "there.html" in stream.getvalue()


def test_the_card_lies_beside_the_report_and_its_header_is_hugging_faces(report: Artifact, tiny_run: Any) -> None:
    text = (report.path() / "MODEL_CARD.md").read_text()
    _, header, body = text.split("---\n", 2)
    told = yaml.safe_load(header)
    values = evaluate.report_of(report)
    assert told["pipeline_tag"] == "visual-question-answering" and told["license"] == "other"
    metrics = {one["type"]: one["value"] for one in told["model-index"][0]["results"][0]["metrics"]}
    assert metrics["exact_match"] == pytest.approx(values["models"]["student_int8"]["metrics"]["exact_match"], abs=1e-5)
    assert values["artifacts"]["bundle"] in body and "## Where it is weak" in body
    assert card.written(values, tiny_run.recipe) == text


def test_a_report_without_the_further_blocks_is_drawn_without_them(values: dict[str, Any]) -> None:
    plain = {key: value for key, value in values.items() if key not in beyond_plots.BLOCKS}
    assert beyond_plots.all_plots(beyond_plots.whole(plain)) == {}
    text = page.render(plain, {}, [])
    assert "What an answer costs" not in text and "Where it comes from" in text


def test_every_further_block_has_its_picture_or_table(values: dict[str, Any]) -> None:
    both = {"student_int8": 0.8, "teacher": 0.9}
    blocks = {
        "per_class": {"student_int8": {"confusion": {"labels": ["a", "b"], "counts": [[9, 1], [2, 8]]}, "classes": [],
                                       "pairs": [{"truth": "b", "answer": "a", "rows": 2}]}},
        "slices": {"slice": [], "length": [{"name": "1 to 3", "rows": 10, "low": 0.6, "high": 0.9, **both}]},
        "robustness": {"rows": 10, "clean": both, "swaps": None, "kinds": [
            {"kind": "typos", "severity": step, "drop": 0.1, **both} for step in (1, 2, 3)]},
        "transfer": {"cka": None, "of_teacher_right": 0.9, "of_teacher_wrong": 0.2, "agreement_by_confidence": [
            {"low": 0.5, "high": 1.0, "rows": 10, "teacher_right": 0.9, "student": 0.8, "student_int8": 0.8}]},
        "fairness": {"positive": "yes", "templates": "ours", "gap": 0.1, "worst": ["x", "y"],
                     "groups": [{"name": "x", "probability": 0.4}, {"name": "y", "probability": 0.5}]},
    }  # fmt: skip
    text = page.render({**values, **blocks}, {}, [])
    assert set(beyond_plots.all_plots(beyond_plots.whole({**values, **blocks}))) == set(beyond_plots.PICTURES)
    for part in ("What is taken for what", "Where it is weaker", "When the input is worse", "How much of the teacher",
                 "treat groups alike"):  # fmt: skip
        assert part in text
    assert text.count("b as a (2)") == 1
