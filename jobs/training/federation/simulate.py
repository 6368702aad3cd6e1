"""A federation on this machine: every site fits a teacher on its own rows, shares soft labels on public rows, and the
student learns from what the server makes of them; beside it what each site reaches alone, and all of them pooled.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cluster.errors import InputError
from cluster.recipe import Recipe, Stage, Term
from cluster.session import commit
from cluster.store import Artifact, Draft, Store, artifact_id
from jobs import tasks
from jobs.training import table
from jobs.training.federation import privacy, sites
from jobs.training.federation.sites import Rule
from jobs.training.loop import Job
from jobs.training.runner import Trained, run_local
from jobs.training.table import Columns

KIND, VERSION = "federated", 1
BATCH = 256
SMALLEST = 1e-6  # probability; its logarithm fits float16


@dataclass(frozen=True)
class Federation:
    """How many sites, how unlike (`skew`, see sites.split), the public share of rows, and the privacy of a release.

    epsilon None: no noise, and nothing is promised.
    """

    sites: int = 4
    public_share: float = 0.3
    skew: float = 1.0
    rule: Rule = "mean"
    epsilon: float | None = None
    delta: float = 1e-5


def check(recipe: Recipe, federation: Federation) -> None:
    """Raises InputError for a task without classes, and for numbers that cannot be."""
    if tasks.of(recipe).classes is None:
        raise InputError("a federation shares probabilities of classes", got=f"task {recipe.task}")
    if federation.sites < 2 or not 0 < federation.public_share < 1 or federation.skew <= 0:
        expected = "sites >= 2, 0 < public_share < 1, skew > 0"
        raise InputError("this is no federation", got=asdict(federation), expected=expected)
    if federation.rule not in get_args(Rule):
        raise InputError("unknown rule", got=federation.rule, expected=" or ".join(get_args(Rule)))
    if federation.epsilon is not None:
        privacy.noise_for(federation.epsilon, federation.delta, 1)


def run(recipe: Recipe, store: Store, federation: Federation) -> Artifact:
    """Return the artifact "federated": `hf/` of the student and `federated.json`; found, or made now.

    Raises what `check` raises, StepFailed when a training stops.
    """
    check(recipe, federation)
    # A view of a site's row must not lie with another site, or among the public ones.
    recipe = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"views": {}})})
    section = {
        **recipe.part("task", "seed", "data", "teacher", "student", "fit", "distill"),
        "rows": tasks.of(recipe).data_identity(), "federation": asdict(federation),
    }  # fmt: skip
    aid = artifact_id(KIND, section, {}, VERSION)
    with store.draft(KIND, aid, section=section, parents={}, step_version=VERSION, commit=commit()) as draft:
        if not draft.done:
            document = _Simulation(recipe, federation, draft).document()
            (draft.path / "federated.json").write_text(json.dumps(document, indent=1))
            draft.note(**document)
    return draft.artifact


class _Simulation:
    """One federation in the making; what each training leaves in `scratch` is taken up by the next attempt."""

    def __init__(self, recipe: Recipe, federation: Federation, draft: Draft) -> None:
        self._recipe, self._federation, self._draft = recipe, federation, draft
        self._task = tasks.of(recipe)
        self._columns = self._task.fit_columns()
        self._validation = draft.scratch / "validation.arrow"
        table.write(self._validation, self._task.validation_columns())
        cut = federation.public_share, federation.skew, recipe.seed
        self._public, self._sites = sites.split(self._columns["target"].reshape(-1), federation.sites, *cut)

    def document(self) -> dict[str, Any]:
        """Train all of them and return what came out: metrics by party, rows, and the privacy of a release."""
        federation, public = self._federation, _taken(self._columns, self._public)
        epsilon = federation.epsilon
        sigma = 0.0 if epsilon is None else privacy.noise_for(epsilon, federation.delta, len(self._public))
        teachers = [self._fit(f"site-{number}", rows) for number, rows in enumerate(self._sites)]
        releases = []
        for number, teacher in enumerate(teachers):
            probabilities_RC = self._probabilities(teacher, public)
            releases.append(privacy.released(probabilities_RC, sigma, self._recipe.seed * 1000 + number))
        labels_RC = sites.aggregate(np.stack(releases), federation.rule)
        student = self._distil(public, labels_RC)
        pooled = self._fit("pooled", np.sort(np.concatenate(self._sites)))
        shutil.copytree(student.weights, self._draft.path / "hf")
        right = labels_RC.argmax(1) == public["target"].reshape(-1)
        return {
            "student": self._measured(student), "pooled": self._measured(pooled),
            "sites": [
                {"rows": len(rows), **self._measured(one)} for rows, one in zip(self._sites, teachers, strict=True)
            ],
            "public_rows": len(self._public), "label_accuracy": float(right.mean()), "rule": federation.rule,
            "privacy": {"epsilon": epsilon, "delta": federation.delta if epsilon else None, "sigma": sigma,
                        "of": "a site's whole data, one release, no trusted server"},
        }  # fmt: skip

    def _fit(self, name: str, rows: np.ndarray) -> Trained:
        fit = self._recipe.fit
        return self._train(name, self._initial("teacher"), _taken(self._columns, rows), tuple(fit.active))

    def _distil(self, public: Columns, labels_RC: np.ndarray) -> Trained:
        """Train the student on the server's labels alone: the true ones of the public rows are not looked at."""
        logits_RC = np.log(np.maximum(labels_RC, SMALLEST))
        logits_RC -= logits_RC.max(axis=1, keepdims=True)
        target = labels_RC.argmax(1).reshape(public["target"].shape).astype(public["target"].dtype)
        columns = {**public, "target": target, "teacher_logits": logits_RC[:, None, :].astype(np.float16)}
        first = self._recipe.distill.active[0]
        loss = Term(name="forward_kl", params={"temperature": 1.0})
        stage = first.model_copy(update={"name": "federated", "losses": [loss], "adapters": False})
        return self._train("student", self._initial("student"), columns, (stage,))

    def _initial(self, who: str) -> Path:
        folder = self._draft.scratch / f"initial-{who}"
        if not (folder / "task.json").is_file():
            folder.mkdir(exist_ok=True)
            section = self._recipe.teacher if who == "teacher" else self._recipe.student
            self._task.save(self._task.build(section, self._recipe.seed), folder)
        return folder

    def _train(self, name: str, initial: Path, columns: Columns, stages: tuple[Stage, ...]) -> Trained:
        recipe, rows = self._recipe, self._draft.scratch / f"{name}.arrow"
        section = recipe.distill if name == "student" else recipe.fit
        table.write(rows, columns)
        job = Job(
            recipe=recipe, arm="distill" if name == "student" else "fit", initial=str(initial), table=str(rows),
            validation=str(self._validation), stages=stages, batch_size=min(section.batch_size, table.rows(columns)),
            engine=section.engine.model_copy(update={"workers": 1, "min_workers": None}),
        )  # fmt: skip
        return run_local(job, self._draft.scratch / name)

    def _probabilities(self, teacher: Trained, columns: Columns) -> np.ndarray:
        """A site's answers to the public rows, float64 [R, C]."""
        import torch

        network = self._task.load(str(teacher.weights)).eval()
        parts = []
        with torch.inference_mode():
            for start in range(0, table.rows(columns), BATCH):
                rows = np.arange(start, min(start + BATCH, table.rows(columns)))
                logits_QC, _ = self._task.scored(network, self._task.batch(columns, rows))
                parts.append(torch.softmax(logits_QC.double(), -1).numpy())
        return np.concatenate(parts)

    @functools.cached_property
    def _held_out(self) -> Columns:
        return self._task.validation_columns()

    def _measured(self, trained: Trained) -> dict[str, float]:
        network = self._task.load(str(trained.weights)).eval()
        return dict(self._task.evaluate(network, self._held_out))


def _taken(columns: Columns, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}
