"""Every engine opens every kind of network and answers as ONNX Runtime does in float32."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.recipe import Recipe, load
from jobs import export
from jobs.packing import calibration, writing
from jobs.quantize.plan import Plan
from serving import engines
from serving.bundle import files, predict
from serving.bundle.answer import BundleError

TASKS = ["text_classification", "retrieval", "text_generation", "visual_qa", "image_classification"]
Bundled = Callable[..., Path]


def recipe_for(engine: str) -> Recipe:
    return load("digits", [f"export.engine={engine}", "export.scheme=auto"])


@pytest.fixture(scope="session")
def plain_of(model_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A task's float32 ONNX bundle."""
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp(task) / "float32"
            export.plain(model_of(task), made[task], recipe_for("onnxruntime"))
        return made[task]

    return make


@pytest.fixture
def bundled(
    model_of: Callable[[str], Path], plain_of: Callable[[str], Path], items_of: Callable[..., Any], tmp_path: Path
) -> Bundled:
    """A task's bundle for an engine and a scheme."""

    def make(task: str, engine: str, scheme: str) -> Path:
        plan, out, plain = Plan(scheme), tmp_path / "bundle", plain_of(task)
        out.mkdir()
        if scheme == "static":
            plan = plan.fed(calibration.recorded(plain, items_of(task)))
        if engine == "torch":
            fields = writing.scripted(model_of(task), out, plan)
        else:
            fields = writing.student(plain, out, recipe_for(engine), plan)
        writing.describe(out, predict.verify(plain) | fields, recipe_for(engine))
        return out

    return make


def error(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Relative difference of the logits at each answer's first position."""
    a, b = (np.stack([rows[0] for rows in logits]) for logits in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("engine", "scheme", "most"),
    [
        ("openvino", "float32", 1e-4),
        ("openvino", "weights", 0.15),  # it rounds the inputs of such products too, in groups
        ("openvino", "static", 0.25),  # random weights are a worst case: there is no answer to be sure of
        ("onnxruntime", "weights", 0.05),
        ("onnxruntime", "static", 0.25),
        ("torch", "float32", 1e-4),
        ("torch", "bfloat16", 0.05),
    ],
)
def test_an_engine_answers_as_float32_does(
    task: str, engine: str, scheme: str, most: float, bundled: Bundled, plain_of: Callable[[str], Path],
    items_of: Callable[[str], list[dict[str, Any]]],
) -> None:  # fmt: skip
    items = items_of(task)
    student = predict.load(bundled(task, engine, scheme))
    assert student.spec["engine"]["name"] == engine
    assert error(predict.load(plain_of(task)).logits(items), student.logits(items)) < most
    assert [one.text for one in student.predict(items)]


def test_an_engine_that_is_not_installed_is_named(bundled: Bundled, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundled("text_classification", "openvino", "float32")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BundleError, match=r"model\.onnx: engine openvino is not installed .* needs openvino"):
        predict.load(folder)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_a_file_that_is_no_graph_is_named_in_one_line(engine: str, tmp_path: Path) -> None:
    module = engines.module(engine)
    (tmp_path / f"model{module.FILE}").write_bytes(b"no graph\n at all")
    with pytest.raises(BundleError, match=rf"^model\{module.FILE}: engine {engine} cannot open it") as caught:
        engines.open_graph(files.Folder(tmp_path), "model", {"engine": module.about(), "threads": 1})
    assert "\n" not in str(caught.value)
