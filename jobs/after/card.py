"""The model card of a student, `MODEL_CARD.md`: Hugging Face's form, a YAML header and what a stranger must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.measured import STUDENT_INT8, TEACHER
from cluster.recipe import Recipe
from jobs.after import wording
from jobs.measure import gates

# Hugging Face's names: https://huggingface.co/docs/hub/model-cards, "tasks"
PIPELINES = {
    "visual_qa": "visual-question-answering",
    "text_classification": "text-classification",
    "image_classification": "image-classification",
    "text_generation": "text-generation",
    "retrieval": "sentence-similarity",
}
GIVEN = {
    "visual_qa": '--text "..." --image FILE',
    "text_classification": '--text "..."',
    "image_classification": "--image FILE",
    "text_generation": '--text "..."',
    "retrieval": '--text "..."',
}
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0", "openrail")


def written(report: Mapping[str, Any], recipe: Recipe) -> str:
    """The card's text from the content of `report.json`. Nothing in it is said that was not measured or declared."""
    import yaml

    header = yaml.safe_dump(_header(report, recipe), sort_keys=False, allow_unicode=True)
    parts = [_about(report, recipe), _use(recipe), _quality(report), _limits(report), _training(report, recipe)]
    return "\n\n".join([f"---\n{header}---", *parts]) + "\n"


def _header(report: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    known = recipe.student.licence or ""
    licence = {"license": known.lower()} if known.lower() in LICENCES else {"license": "other"}
    if licence["license"] == "other":
        licence["license_name"] = known or "not declared"
    base = {"base_model": recipe.teacher.weights} if recipe.teacher.weights else {}
    reached = report["models"][STUDENT_INT8]["metrics"]
    results = [
        {"type": name, "value": round(value, 5), "name": wording.metric(name)} for name, value in reached.items()
    ]
    dataset = {"type": recipe.data.source, "name": recipe.data.test or recipe.data.source, "split": "test"}
    result = {"task": {"type": PIPELINES[recipe.task]}, "dataset": dataset, "metrics": results}
    return {
        **licence, "library_name": "onnxruntime", "pipeline_tag": PIPELINES[recipe.task],
        "tags": ["knowledge-distillation", "int8", "raydistill"], **base,
        "model-index": [{"name": recipe.promote.model_name, "results": [result]}],
    }  # fmt: skip


def _about(report: Mapping[str, Any], recipe: Recipe) -> str:
    student, teacher = report["models"][STUDENT_INT8], report["models"][TEACHER]
    name, metric = report["primary_metric"], wording.metric(report["primary_metric"])
    kept = wording.percent(report["retention"]["value"])
    size = f"{wording.count(student['params'])} parameters, {wording.size(student['bytes'])} on disk"
    lines = [
        f"# {recipe.promote.model_name}",
        recipe.description,
        f"A student of {size}, distilled from a teacher of {wording.count(teacher['params'])} parameters and quantized "
        f"to 8 bits. On {report['rows']:,} test rows it reaches {metric} {wording.plain(student['metrics'][name])} "
        f"(teacher {wording.plain(teacher['metrics'][name])}): {kept} of the teacher is kept.",
    ]
    return "\n\n".join(line for line in lines if line)


def _use(recipe: Recipe) -> str:
    given = GIVEN[recipe.task]
    return (
        "## Use\n\nIn the bundle's folder, with numpy, tokenizers and its engine alone:\n\n"
        f"```sh\npython predict.py {given}\n```\n\n"
        "`python predict.py --self-test` asks the samples it was exported with, `--verify` checks every file and the "
        "signature. It answers with `text`, `confidence` (0 to 1) and, for classes, `probabilities`. Behind "
        "`python -m serving up` it hands what it is not sure of to its teacher."
    )


def _quality(report: Mapping[str, Any]) -> str:
    names = list(report["models"][TEACHER]["metrics"])
    head = ["model", *(wording.metric(name) for name in names), "bytes", "p50", "p95"]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for key, model in report["models"].items():
        timed = model["latency_ms"] or {"p50": None, "p95": None}
        cells = [wording.MODELS[key], *(wording.plain(model["metrics"][name]) for name in names)]
        cells += [wording.size(model["bytes"]), *(wording.milliseconds(timed[one]) for one in ("p50", "p95"))]
        rows.append(f"| {' | '.join(cells)} |")
    failed = gates.failed(report["gates"])
    verdict = (
        f"All {len(report['gates'])} gates passed."
        if not failed
        else "Gates not passed: "
        + ", ".join(f"{name} ({wording.limit(name, value)})" for name, value, _ in failed)
        + "."
    )
    return "## How good it is\n\n" + "\n".join(rows) + f"\n\n{verdict}"


def _limits(report: Mapping[str, Any]) -> str:
    lines = []
    slices = sorted(report["models"][STUDENT_INT8]["slices"].items(), key=lambda one: one[1])[:3]
    if slices:
        lines.append(
            "weakest slices: " + ", ".join(f"{name} ({wording.percent(value)} right)" for name, value in slices)
        )
    if STUDENT_INT8 in report["calibration"]:
        lines.append(f"expected calibration error {wording.percent(report['calibration']['student_int8']['ece'])}")
    if report.get("robustness"):
        worst = max(report["robustness"]["kinds"], key=lambda one: one["drop"], default=None)
        if worst is not None:
            lines.append(f"strongest loss under noise: {wording.metric(worst['kind'])}, strength {worst['severity']}, "
                         f"{wording.points(-worst['drop'])}")  # fmt: skip
    if report.get("fairness"):
        lines.append(f"gap between groups {wording.plain(report['fairness']['gap'])} "
                     f"({' and '.join(report['fairness']['worst'])})")  # fmt: skip
    lines += [
        f"not measured: {wording.metric(what)} ({why})" for what, why in (report.get("not_measured") or {}).items()
    ]
    return "## Where it is weak\n\n" + "\n".join(f"- {line}" for line in lines)


def _training(report: Mapping[str, Any], recipe: Recipe) -> str:
    stages = ", ".join(f"{one['name']} ({one['epochs']:.3g} epochs)" for one in report["stages"])
    curation = report["curation"]
    ids = "\n".join(f"| {kind} | `{aid}` |" for kind, aid in report["artifacts"].items())
    return (
        f"## Where it comes from\n\nRecipe `{recipe.name}`, run `{report['run']}`, commit `{report['commit']}`. "
        f"Teacher: {recipe.teacher.weights or recipe.teacher.architecture}, licence "
        f"{recipe.teacher.licence or 'not declared'}; data: licence {recipe.data.licence or 'not declared'}. "
        f"It learned from {curation['kept']:,} of {curation['in']:,} answers of the teacher, in stages {stages}.\n\n"
        f"| artifact | id |\n|---|---|\n{ids}\n\n`python -m jobs lineage {recipe.promote.model_name}` walks back "
        f"through them, `python -m jobs reproduce {recipe.promote.model_name}` makes them again."
    )
