"""A real bundle behind the real service: HAProxy, gateway replica, teacher replica, over HTTP."""

import base64
import importlib
import io
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cluster.recipe import Recipe, ResourcesSection
from cluster.recipe.serving import ServingSection
from cluster.registry import Registry
from cluster.store import Artifact, Store
from serving.deployment.app import Running
from serving.deployment.served import Names


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
def champion(exported: tuple[Recipe, Store, Artifact]) -> Registry:
    """The registry beside the store, with the bundle as champion of the model `visual`."""
    _, store, artifact = exported
    registry = Registry.beside(store.workspace)
    version = registry.register("visual", str(artifact.path()), {"artifact_id": artifact.id})
    registry.set_alias("visual", "champion", version, expect=None)
    return registry


@pytest.fixture(scope="session")
def challenge(exported: tuple[Recipe, Store, Artifact], champion: Registry) -> Callable[..., int]:
    """Registers a changed copy of the champion's bundle as challenger, and returns its version.

    `aid` names the artifact; `change` gets the copy's folder before it is finished; `alias` is another arm's.
    """
    _, store, artifact = exported

    def make(aid: str, change: Callable[[Path], None] = lambda folder: None, alias: str = "challenger") -> int:
        parents = dict(artifact.manifest.parents)
        with store.draft("bundle", aid, section={"copy": aid}, parents=parents, step_version=1) as draft:
            shutil.copytree(artifact.path(), draft.path, dirs_exist_ok=True)
            change(draft.path)
        version = champion.register("visual", str(store.get("bundle", aid).path()), {"artifact_id": aid})
        now = champion.alias("visual", alias)
        champion.set_alias("visual", alias, version, expect=None if now is None else now.version)
        return version

    return make


@pytest.fixture(scope="session")
def running(
    serve_ready: None, exported: tuple[Recipe, Store, Artifact], champion: Registry, teacher: Path
) -> Iterator[Running]:
    """The running service, which lets faults be injected and waits long, for machines under load."""
    from serving.deployment import app, promoted

    _, store, artifact = exported
    section = ServingSection(student_ms=1000.0, total_ms=8000.0, hedge_share=0.0)
    catalog = promoted.Catalog(str(store.root), "visual")
    options = app.Options(catalog=catalog)
    names = Names("visual", "1", "t")
    started = app.start(artifact.path(), teacher, section, allow_fault_injection=True, names=names, options=options)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def service(running: Running) -> Iterator[httpx.Client]:
    """A client of the running service."""
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def admin(running: Running) -> Iterator[httpx.Client]:
    """A client with the operator's key."""
    headers = {"authorization": f"Bearer {running.key}"}
    with httpx.Client(base_url=running.url, timeout=90, headers=headers) as client:
        yield client
