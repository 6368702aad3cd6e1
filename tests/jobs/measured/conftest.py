"""A whole tiny run of the digits recipe, every step's real body, without Ray: minutes of the real thing in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cluster.recipe import Recipe, load
from cluster.store import Artifact, Store, artifact_id
from jobs import curate, distill, evaluate, export, fit, generate
from jobs.measure import gates
from jobs.step import Step, Work

MODEL = (
    "{layers: 1, hidden_size: 32, heads: 2, kv_heads: 2, head_dim: 12, experts: 2, experts_per_token: 1, "
    "expert_size: %d, vision_layers: 1, vision_size: 16, vision_heads: 2}"
)
TINY = (
    f"teacher.params={MODEL % 64}",
    f"student.params={MODEL % 16}",
    "data.params={validation: 40, test: 60, two_share: 0.5}",
    "fit.samples=256",
    "fit.engine.workers=1",
    "generate.samples=160",
    "curate.filters=[{name: duplicate}]",
    "distill.stages.2.kv_heads=1",
    "evaluate.latency_requests=20",
    "evaluate.bootstrap=200",
    "evaluate.fresh_requests=6",
    "evaluate.edge=[rpi4]",
    "evaluate.robustness.rows=12",
    "evaluate.gates={latency_p95_ms: null, retention_min: 0.5, int8_drop_max: 0.5, int8_agreement_min: 0.5, "
    "param_share_max: 1.0, above_control: -1.0}",
)


@dataclass(frozen=True)
class Run:
    """A finished run up to the bundle: its recipe, its store, and its artifacts by kind."""

    recipe: Recipe
    store: Store
    artifacts: Mapping[str, Artifact]

    def carry_out(self, step: Step, recipe: Recipe | None = None, **others: Artifact) -> Artifact:
        """Run a step's body on this run's artifacts (or `others` by kind), whatever ids the recipe would ask for."""
        recipe = recipe or self.recipe
        parents = {parent.kind: {**self.artifacts, **others}[parent.kind] for parent in step.parents}
        about = {kind: artifact.id for kind, artifact in parents.items()}
        section = step.section(recipe)
        aid = artifact_id(step.kind, section, about, step.version)
        with self.store.draft(step.kind, aid, section=section, parents=about, step_version=step.version) as draft:
            if not draft.done:
                step.body(Work(recipe, self.store, parents, draft))
        return draft.artifact


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    """The digits recipe, small; further overrides as arguments."""
    return lambda *overrides: load("digits", [*TINY, *overrides])


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Recipe], in_process: Callable[[], Any]
) -> Run:
    """Teacher, samples, curated set, student, control arm and bundle; do not write into its artifacts."""
    run = Run(tiny_recipe(), Store.open(tmp_path_factory.mktemp("tiny") / "runs"), {})
    with in_process():
        for step in (fit.STEP, generate.STEP, curate.STEP, distill.STEP, distill.CONTROL, export.STEP):
            run = replace(run, artifacts={**run.artifacts, step.kind: run.carry_out(step)})
    return run


@pytest.fixture(scope="session")
def report(tiny_run: Run) -> Artifact:
    """The report of the tiny run."""
    return tiny_run.carry_out(evaluate.STEP)


@pytest.fixture(scope="session")
def failing(tiny_run: Run, tiny_recipe: Callable[..., Recipe], report: Artifact) -> Artifact:
    """The same report under a recipe whose size gate it does not pass: judged anew, not measured again."""
    recipe, values = tiny_recipe("evaluate.gates.bytes_max=5"), evaluate.report_of(report)
    values["gates"] = gates.judge(values, recipe.evaluate.gates, control=True)
    return tiny_run.carry_out(replace(evaluate.STEP, body=lambda work: _write(work, values)), recipe)


def _write(work: Work, values: dict[str, Any]) -> None:
    (work.draft.path / "report.json").write_text(json.dumps(values))
