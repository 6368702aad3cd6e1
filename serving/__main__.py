"""`python -m serving COMMAND`: answer over HTTP with what was promoted, and change that while it is served."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.edge import failure, reserved_stdout
from cluster.errors import InputError, RaydistillError
from serving.commands import address, client

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

StoreOption = Annotated[str, typer.Option("--store", help="directory or URI of artifacts")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=c, changes one knob of the recipe; repeat it")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
DetachOption = Annotated[bool, typer.Option("--detach", help="give the shell back once it answers")]
SharesArgument = Annotated[list[str], typer.Argument(help="ARM=SHARE of all units (0..1); the champion has the rest")]
ArmArgument = Annotated[str, typer.Argument(help="the arm, where there are several challengers")]

Say = Callable[[dict[str, Any], str], None]  # the one JSON document, or its text for people

STOP_S = 60.0


@app.command()
def up(target: str, store: StoreOption = "runs/", changes: SetOption = None, as_json: JsonOption = False,
       detach: DetachOption = False) -> None:  # fmt: skip
    """Serve TARGET, a recipe (its champion, else its challenger) or MODEL@ALIAS, until Ctrl-C or SIGTERM."""
    _guarded(lambda say: _up(target, store, changes or [], detach, say), as_json)


@app.command()
def status(store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """Say what is served from this store; exit 1 when nothing is."""
    _guarded(lambda say: _status(_folder(store), say), as_json)


@app.command()
def split(shares: SharesArgument, store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """Give arms other shares: challenger=0.1. An arm that does not run yet is started first."""
    _guarded(lambda say: _change(_folder(store), "split", {"shares": _shares(shares)}, say), as_json)


@app.command()
def kill(arm: str, store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """Take ARM out of the split, at once; its units go to the champion."""
    _guarded(lambda say: _change(_folder(store), "kill", {"arm": arm}, say), as_json)


@app.command()
def promote(arm: ArmArgument = "challenger", store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """Let the challenger, or ARM, be champion: the alias moves, then every replica turns to it."""
    _guarded(lambda say: _change(_folder(store), "promote", {"arm": arm}, say), as_json)


@app.command()
def rollback(store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """Let the previous champion be champion again, alone: every trial ends."""
    _guarded(lambda say: _change(_folder(store), "rollback", {}, say), as_json)


@app.command()
def down(store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """End the service of this store; returns when it is gone."""
    _guarded(lambda say: _down(_folder(store), say), as_json)


@app.command()
def config(target: str, store: StoreOption = "runs/", changes: SetOption = None) -> None:
    """Print the declarative document of TARGET, for `serve deploy` on a cluster that runs already."""
    _guarded(lambda say: _config(target, store, changes or [], say), False)


@app.command()
def key(name: str, file: Annotated[Path, typer.Option("--file", help="the recipe's serving.keys_file")],
        admin: Annotated[bool, typer.Option("--admin", help="may also change what is served")] = False,
        per_minute: Annotated[float | None, typer.Option("--per-minute", help="requests a minute")] = None,
        as_json: JsonOption = False) -> None:  # fmt: skip
    """Draw an API key called NAME and print it, this once; the file keeps its digest only."""
    _guarded(lambda say: _key(name, file, admin, per_minute, say), as_json)


def _up(target: str, store: str, changes: list[str], detach: bool, say: Say) -> None:
    from serving.commands import up as service

    folder = _folder(store)
    wanted = service.wanted(target, store, changes)  # what is wrong is said here, also with --detach
    if not detach:
        return service.serve(wanted, folder, say)
    knobs = [part for change in changes for part in ("--set", change)]
    return service.detach([target, "--store", store, *knobs], folder, say)


def _status(folder: Path, say: Say) -> None:
    known = client.elsewhere() or address.read(folder)
    if not known:
        text = "nothing is served" if known is None else "starting"
        say({"serving": known is not None, "ready": False}, text)
        raise typer.Exit(1)
    models = client.ask(known, "/v1/models")["data"]
    state = client.ask(known, "/v1/admin/state")
    known.pop("key")
    lines = [_line(model) for model in models]
    breakers = {name for one in state["replicas"] for name, is_now in one["breakers"].items() if is_now != "closed"}
    lines += [f"breaker open: {name}" for name in sorted(breakers)]
    told = {"serving": True, "ready": True, "models": models, "replicas": state["replicas"]}
    say(known | told, "\n".join([known["url"], *lines]))


def _line(model: dict[str, Any]) -> str:
    share = f", {model['arm']} with {model['weight']:.0%} of the units" if "weight" in model else ""
    return f"{model['id']} version {model['version']}{share}"


def _shares(given: list[str]) -> dict[str, float]:
    found = {}
    for one in given:
        arm, _, share = one.partition("=")
        try:
            found[arm] = float(share)
        except ValueError:
            raise InputError("a share is ARM=NUMBER", got=one, expected="challenger=0.1") from None
    return found


def _change(folder: Path, action: str, body: dict[str, Any], say: Say) -> None:
    found = client.ask(client.known(folder), f"/v1/admin/{action}", body, "POST")
    lines = [f"{arm['name']}: {arm['model']} version {arm['version']}, {arm['weight']:.0%}" for arm in found["arms"]]
    say(found, "\n".join(lines))


def _down(folder: Path, say: Say) -> None:
    known = address.read(folder)
    if not known:
        raise InputError("nothing is served from this store", got=str(folder), hint="python -m serving up RECIPE")
    os.kill(known["pid"], signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while address.read(folder) is not None:
        if time.monotonic() > until:
            raise RaydistillError(f"process {known['pid']} has not ended after {STOP_S:.0f} s")
        time.sleep(0.1)
    say({"serving": False, "pid": known["pid"]}, "ended")


def _config(target: str, store: str, changes: list[str], say: Say) -> None:
    import yaml

    from serving.commands import up as service
    from serving.deployment.app import declared

    wanted = service.wanted(target, store, changes)
    found = wanted.found
    document = declared(found.bundle, found.teacher, wanted.section, found.names, wanted.options)
    say(document, yaml.safe_dump(document, sort_keys=False))


def _key(name: str, file: Path, admin: bool, per_minute: float | None, say: Say) -> None:
    from serving.web import auth

    secret, kept = auth.draw(name, "admin" if admin else "client", per_minute)
    auth.add(file, kept)
    say({"name": name, "role": kept.role, "key": secret}, secret)


def _folder(store_root: str) -> Path:
    from cluster.store import Store

    return Store.open(store_root).workspace / "serving"


def _guarded(command: Callable[[Say], None], as_json: bool) -> None:
    """Run a command; what is raised on purpose becomes a readable message and its own exit code.

    Stdout is for what the command says; all else that prints there (Ray, native code) gets stderr.
    """
    with reserved_stdout() as out:

        def say(document: dict[str, Any], text: str) -> None:
            out.write(f"{json.dumps(document) if as_json else text}\n")
            out.flush()

        try:
            command(say)
        except RaydistillError as error:
            typer.echo(f"error: {error}", err=True)
            if as_json:
                say(failure(error, error.exit_code), "")
            raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    app()
