"""What a submitted job carries: its name, commit and recipe, the pinned environment, and its store."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster import logs, pins, sealed, tracing
from cluster.environment import shipped_variables
from cluster.errors import InputError
from cluster.session import commit

FOLDERS = ("cluster", "jobs", "serving", "tuning")
VERBS_WITH_RECIPE = {
    "jobs": ("run", "plan", "fit", "generate", "curate", "distill", "export", "evaluate", "promote", "watch", "probe",
             "federate"),
    "serving": ("up",),
    "tuning": ("search",),
    "cluster": (),
}  # fmt: skip
PASSED_ON = (logs.VARIABLE, "RAYDISTILL_CACHE")


@dataclass(frozen=True)
class Asked:
    """What is asked of a cluster: the command, the names of variables to seal and send, and what the driver needs.

    `driver`: cpus=N, gpus=N and labels of the node that it runs on, which is the head where nothing is asked.
    """

    command: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()


def placement(asked: Asked) -> dict[str, Any]:
    """Return where the driver goes, as arguments of Ray's submit_job; raises InputError where one is not K=V."""
    where: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for given in asked.driver:
        name, _, value = given.partition("=")
        if not (name and value):
            raise InputError("--driver has no value", got=given, expected="cpus=1, gpus=1 or role=worker")
        if name in ("cpus", "gpus"):
            where[f"entrypoint_num_{name}"] = _count(given, value)
        else:
            labels[name] = value
    return where | ({"entrypoint_label_selector": labels} if labels else {})


def with_store(asked: Asked, loopback: bool, root: Path) -> Asked:
    """Return what is asked with its store as an URI or a whole path: the job runs in another folder than this one.

    Raises InputError for a cluster beyond this machine without a store, or with a relative one.
    """
    module = _module(asked.command)
    if module is None or module == "cluster":
        return asked
    command, place = _store_of(asked.command)
    if place is None and not loopback:
        hint = "add --store s3://BUCKET/runs, or a folder that all nodes share: --store /mnt/shared/runs"
        raise InputError("where do the artifacts of this job go?", got="a command without --store", hint=hint)
    place = place or "runs"
    if "://" not in place:
        if not loopback and not Path(place).is_absolute():
            raise InputError("a store on another machine needs a whole path", got=place, expected="/mnt/shared/runs")
        place = str((root / place).resolve())
    return replace(asked, command=(*command, "--store", place))


def about(asked: Asked, root: Path) -> dict[str, str]:
    """Return the job's metadata (text to text): command, commit, store, names of secrets, pins, recipe and run.

    The recipe is read here, so what is wrong with it is said before anything is sent. Raises RecipeError, and
    InputError for a recipe outside of the working directory.
    """
    facts = {"command": shlex.join(asked.command), "commit": commit(), "secrets": ",".join(asked.secrets)}
    facts |= {"pins": json.dumps(pins.here()), "asked": json.dumps(asdict(asked))}
    if (place := _store_of(asked.command)[1]) is not None:
        facts["store"] = place
    return facts | _recipe_of(asked.command, root)


def runtime_env(package: Path, asked: Asked, facts: Mapping[str, str], token: str | None) -> dict[str, Any]:
    """Return Ray's runtime environment: the package, and the variables that every process of the job gets.

    Raises InputError for secrets without a token to seal them with.
    """
    variables = shipped_variables() | {"RAYDISTILL_COMMIT": facts["commit"], pins.VARIABLE: facts["pins"]}
    variables |= tracing.variables() | {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if "run" in facts:
        variables[logs.RUN_ID] = facts["run"]
    environment: dict[str, Any] = {"working_dir": str(package), "env_vars": variables}
    if asked.secrets:
        if token is None:
            hint = "a cluster without a token takes its secrets from its own nodes' environment"
            raise InputError("secrets are sealed with the cluster's token, and there is none", hint=hint)
        variables[sealed.VARIABLE] = sealed.seal(sealed.collect(asked.secrets), token)
        environment["worker_process_setup_hook"] = sealed.HOOK
    return environment


def entrypoint(asked: Asked) -> str:
    """Return the shell command that the job's driver is."""
    return shlex.join([*sealed.WRAPPER, *asked.command] if asked.secrets else asked.command)


def name(facts: Mapping[str, str]) -> str:
    """Return a new submission id: the run (or "job"), the second, and four random digits."""
    run = facts.get("run") or "job"
    return f"{run}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def asked_again(facts: Mapping[str, str]) -> Asked:
    """Return what a job was asked, from its metadata; raises InputError where this tool did not submit it."""
    if "asked" not in facts:
        raise InputError(
            "this job was not submitted by python -m cluster submit", got=", ".join(facts) or "no metadata"
        )
    values: dict[str, list[str]] = json.loads(facts["asked"])
    return Asked(**{key: tuple(value) for key, value in values.items()})


def _count(given: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError("--driver needs a number", got=given, expected="cpus=1 or gpus=0.5") from None


def _store_of(command: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the command without its --store, and what that named (the last one counts)."""
    rest: list[str] = []
    place: str | None = None
    words = iter(command)
    for word in words:
        if word == "--store":
            place = next(words, None)
        elif word.startswith("--store="):
            place = word.removeprefix("--store=")
        else:
            rest.append(word)
    return tuple(rest), place


def _module(command: Sequence[str]) -> str | None:
    """Return which of our folders `python -m FOLDER ...` runs, None for another command."""
    if len(command) >= 3 and Path(command[0]).name.startswith("python") and command[1] == "-m":
        return command[2] if command[2] in FOLDERS else None
    return None


def _recipe_of(command: Sequence[str], root: Path) -> dict[str, str]:
    module = _module(command)
    if module is None or len(command) < 5 or command[3] not in VERBS_WITH_RECIPE[module]:
        return {}
    given = [command[at + 1] for at, word in enumerate(command[:-1]) if word == "--set"]
    given += [word.removeprefix("--set=") for word in command if word.startswith("--set=")]
    named = command[4]
    if module == "serving" and "@" in named:
        return {}
    if named.endswith((".yaml", ".yml")) and not Path(root / named).resolve().is_relative_to(root):
        raise InputError("this recipe is not shipped", got=named, expected=f"a file below {root}")
    from cluster.recipe import load

    recipe = load(named, given)
    # As jobs.step.run_name: the same recipe is the same run, wherever it is started.
    return {
        "recipe": recipe.name,
        "run": f"{recipe.name}-{recipe.fingerprint()[:8]}",
        "fingerprint": recipe.fingerprint(),
    }
