"""`python -m cluster manifest RECIPE --kind KIND`: the files to deploy with, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import credentials
from cluster.deploy import image, kuberay, needs, vm
from cluster.errors import InputError
from cluster.recipe import Recipe, load

KINDS = ("raycluster", "rayjob", "rayservice", "vm", "image")


@dataclass(frozen=True)
class Place:
    """Where a VM launcher goes: `hosts` (the first is the head) or a cloud, and the user it logs in as.

    `serve`: file with the Serve document of a RayService.
    """

    hosts: tuple[str, ...] = ()
    cloud: str | None = None
    user: str = "ubuntu"
    serve: str | None = None


def files(recipe_name: str, kind: str, options: needs.Options, place: Place) -> dict[str, str]:
    """Return name -> text of the files. Raises InputError: an unknown kind, no store, no hosts, RecipeError."""
    if kind not in KINDS:
        raise InputError("unknown kind", got=kind, expected=", ".join(KINDS))
    recipe = load(recipe_name)
    name = recipe.name.replace("_", "-").lower()
    written: Mapping[str, Callable[[], dict[str, str]]] = {
        "raycluster": lambda: {"raycluster.yaml": kuberay.raycluster(name, recipe, options)},
        "rayjob": lambda: {"rayjob.yaml": kuberay.rayjob(name, recipe, options, recipe_name)},
        "rayservice": lambda: {"rayservice.yaml": kuberay.rayservice(name, recipe, options, _served(place.serve))},
        "vm": lambda: {f"{name}.yaml": _launcher(name, recipe, options, place)},
        "image": lambda: {
            "Containerfile": image.containerfile("gpu" if options.gpu else "cpu"),
            ".dockerignore": image.IGNORE,
        },
    }
    return written[kind]()


def write(out: Path, texts: Mapping[str, str]) -> list[str]:
    """Write the files into a folder and return their paths; a launcher gets its token beside it (mode 0600)."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
        paths.append(os.fspath(out / name))
        if "ray_bootstrap_config" in text or "worker_start_ray_commands" in text:
            token = out / name.replace(".yaml", ".token")
            if not token.exists():
                credentials.make_token(token)
            paths.append(os.fspath(token))
    return paths


def _launcher(name: str, recipe: Recipe, options: needs.Options, place: Place) -> str:
    if place.cloud is not None:
        return vm.in_cloud(name, recipe, options, place.cloud, place.user)
    return vm.on_prem(name, options, _hosts(place.hosts), place.user)


def _hosts(hosts: Sequence[str]) -> Sequence[str]:
    if not hosts:
        raise InputError("on which machines?", expected=f"--host A --host B, or --cloud {'|'.join(vm.CLOUDS)}")
    return hosts


def _served(path: str | None) -> str:
    if path is None or not Path(path).is_file():
        hint = "--choose serve=FILE: the document that `serve deploy` takes, with bundles in the shared store"
        raise InputError("what does the service run?", got=path, hint=hint)
    return Path(path).read_text(encoding="utf-8")
