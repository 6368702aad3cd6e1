"""What an engine cannot take is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import RecipeError
from cluster.recipe import load
from jobs.packing import fits
from serving.bundle import seal


@pytest.mark.parametrize(
    ("recipe", "changes", "says"),
    [
        ("digits", ["export.engine=openvino", "export.scheme=fast"], "engine openvino has no fast"),
        ("digits", ["export.engine=torch"], "engine torch has no exact"),
        ("digits", ["export.scheme=float16"], "engine onnxruntime has no float16"),
        ("digits", ["export.scheme=[exact, float16]"], "engine onnxruntime has no float16"),
        ("digits", ["export.scheme=[]"], "empty list"),
        ("digits", ["export.engine=tensorrt", "export.scheme=static"], "does not take visual_qa"),
        ("language_model", ["export.engine=tensorrt", "export.scheme=static"], "does not take text_generation"),
        ("image_classification", ["export.engine=tensorrt"], "tensorrt cannot be built here"),
        ("digits", ["export.engine=openvino", "export.scheme=weights", "export.mobile=true"], "ONNX Runtime's format"),
        ("digits", ["evaluate.engines={openvino: [weights, fast]}"], "evaluate.engines: engine openvino has no fast"),
        ("digits", ["evaluate.engines={tensorrt: [float32]}"], "evaluate.engines: tensorrt does not take visual_qa"),
        ("digits", ["export.sign=true"], seal.PRIVATE),
        ("digits", ["export.encrypt=true"], seal.SECRET),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(recipe: str, changes: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        fits.check(load(recipe, changes))
    assert caught.value.expected


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("digits", []),
        ("digits", ["export.engine=auto", "export.scheme=auto"]),
        ("digits", ["export.engine=openvino", "export.scheme=weights"]),
        ("text_classification", ["export.engine=torch", "export.scheme=bfloat16"]),
        ("image_classification", ["export.engine=openvino", "export.scheme=static"]),
        ("text_classification", ["export.scheme=[static, exact]"]),
        ("digits", ["evaluate.engines={openvino: [weights, static], torch: [float32]}"]),
    ],
)
def test_what_can_work_is_let_through(recipe: str, changes: list[str]) -> None:
    fits.check(load(recipe, changes))


def test_keys_are_looked_at_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(seal.SECRET, "too short")
    with pytest.raises(RecipeError, match="got 9 characters"):
        fits.check(load("digits", ["export.encrypt=true"]))
    monkeypatch.setenv(seal.SECRET, "ab" * 32)
    fits.check(load("digits", ["export.encrypt=true"]))


def test_an_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    def spec(name: str, *rest: Any) -> object:
        return None if name == "openvino" else real(name, *rest)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", spec)
    with pytest.raises(RecipeError, match="openvino is not installed"):
        fits.check(load("digits", ["export.engine=openvino", "export.scheme=weights"]))


def test_auto_is_what_this_host_can_run() -> None:
    resolved = fits.resolved(load("image_classification", ["export.engine=auto"]))
    assert resolved.export.engine in ("onnxruntime", "tensorrt")
    assert fits.engine(load("digits", ["export.engine=auto"])) == "onnxruntime"
