"""A real bundle behind the real service: HAProxy, gateway replica, teacher replica, over HTTP."""

import base64
import importlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster.recipe import Recipe, ResourcesSection
from cluster.recipe.serving import ServingSection
from cluster.store import Artifact, Store


@dataclass(frozen=True)
class Question:
    """A question over one picture as `predict` takes it and as HTTP takes it."""

    item: dict[str, Any]
    body: dict[str, Any]


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    """Eight questions over pictures of noise; two lengths."""
    made = []
    for number in range(8):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        text = ("what digit is this ?", "is it even ?")[number % 2]
        images = [base64.b64encode(buffer.getvalue()).decode()]
        item = {"text": text, "images": [buffer.getvalue()]}
        made.append(Question(item, {"text": text, "images": images}))
    return made


@pytest.fixture(scope="session")
def bundle(exported: tuple[Recipe, Store, Artifact]) -> Path:
    """The folder of a bundle."""
    return exported[2].path()


@pytest.fixture(scope="session")
def teacher(exported: tuple[Recipe, Store, Artifact]) -> Path:
    """The model folder of its teacher."""
    _, store, artifact = exported
    return store.get("teacher", artifact.manifest.parents["teacher"]).path() / "hf"


@pytest.fixture(scope="session")
def serve_ready(ray_cluster: ResourcesSection) -> None:
    """Import Ray Serve once, after Ray's variables are set: its own modules warn of pydantic's deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("ray.serve")


@pytest.fixture(scope="session")
def service(serve_ready: None, bundle: Path, teacher: Path) -> Iterator[httpx.Client]:
    """A client of the running service, which lets faults be injected and waits long, for machines under load."""
    from serving import app

    section = ServingSection(student_ms=1000.0, total_ms=8000.0)
    running = app.start(bundle, teacher, section, allow_fault_injection=True)
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client
    running.stop()
