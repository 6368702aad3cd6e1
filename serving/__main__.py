"""`python -m serving up | status | down`: answer over HTTP with what was promoted."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.errors import InputError, RaydistillError
from serving import address

if TYPE_CHECKING:
    from cluster.recipe import Recipe
    from serving.promoted import Promoted

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

StoreOption = Annotated[str, typer.Option("--store", help="directory or URI of artifacts")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=c, changes one knob of the recipe; repeat it")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]

Say = Callable[[dict[str, Any], str], None]  # the one JSON document, or its text for people

STOP_S, POLL_S = 60.0, 0.1


@app.command()
def up(recipe: str, store: StoreOption = "runs/", changes: SetOption = None, as_json: JsonOption = False) -> None:
    """Serve the promoted model of RECIPE (alias champion, else challenger) until Ctrl-C or SIGTERM."""
    _guarded(lambda say: _up(recipe, store, changes or [], say), as_json)


@app.command()
def status(store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """Say what is served from this store; exit 1 when nothing is."""
    _guarded(lambda say: _status(_folder(store), say), as_json)


@app.command()
def down(store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
    """End the service of this store; returns when it is gone."""
    _guarded(lambda say: _down(_folder(store), say), as_json)


def _up(recipe_name: str, store_root: str, changes: list[str], say: Say) -> None:
    from cluster import recipe as recipes
    from cluster.session import disconnect
    from cluster.store import Store
    from serving import promoted
    from serving.app import stop

    recipe, store = recipes.load(recipe_name, changes), Store.open(store_root)
    found = promoted.find(recipe, store)
    asked = threading.Event()
    _on_signals(asked)
    with address.claimed(_folder(store_root)) as publish:
        start = Start(recipe, found, asked)
        try:
            url = start.wait()
            if url is not None:
                known = {"pid": os.getpid(), "url": url, "recipe": recipe.name}
                known |= {"model": found.names.model, "version": found.names.version}
                publish(known)
                say(known, f"{found.names.model} version {found.names.version} answers at {url} (Ctrl-C ends it)")
                asked.wait()
            typer.echo("ending", err=True)
        finally:
            stop()  # a start that is half way then fails
            start.started.wait(STOP_S)
            stop()
            disconnect()
            start.over.set()


class Start:
    """Connects Ray and starts the service in a thread of its own, so that the main one can answer signals meanwhile.

    The thread lives until `over`: the kernel kills what Ray has started when the thread that started it ends.
    """

    def __init__(self, recipe: Recipe, found: Promoted, asked: threading.Event) -> None:
        """`asked` is set when the service shall end; a start that has not begun then does not begin."""
        self._recipe, self._found, self._asked = recipe, found, asked
        self._url: str | None = None
        self._failure: BaseException | None = None
        self.started, self.over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> str | None:
        """The service's URL, None when it is asked to end before it has started; raises what starting raised."""
        while not self.started.wait(POLL_S) and not self._asked.is_set():
            _on_signals(self._asked)  # Ray's native code takes SIGTERM over when it connects, and would abort on it
        _on_signals(self._asked)
        if self._failure is not None:
            raise self._failure
        return self._url

    def _run(self) -> None:
        from cluster.session import connect
        from serving import app as service

        found = self._found
        # Said of every thread that is not the main one; signals are ours here.
        logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.msg)
        try:
            connect(self._recipe.resources, role="serving")
            if not self._asked.is_set():
                running = service.start(found.bundle, found.teacher, self._recipe.serving, names=found.names)
                self._url = running.url
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, raised there
            self._failure = error
        self.started.set()
        self.over.wait()


def _on_signals(asked: threading.Event) -> None:
    def note(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # set by Ray's native handler, when it was the first to see the signal: it aborts 3 s later
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)


def _status(folder: Path, say: Say) -> None:
    known = address.read(folder)
    if not known:
        text = "nothing is served" if known is None else "starting"
        say({"serving": known is not None, "ready": False}, text)
        raise typer.Exit(1)
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between us and loopback
        with direct.open(f"{known['url']}/v1/models", timeout=5) as response:
            models = json.load(response)["data"]
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise RaydistillError(f"the service at {known['url']} does not answer: {error}") from error
    lines = [f"{model['id']} version {model['version']}" for model in models]
    say(known | {"serving": True, "ready": True, "models": models}, "\n".join([known["url"], *lines]))


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


def _folder(store_root: str) -> Path:
    from cluster.store import Store

    return Store.open(store_root).workspace / "serving"


def _guarded(command: Callable[[Say], None], as_json: bool) -> None:
    """Run a command; what is raised on purpose becomes a readable message and its own exit code.

    Stdout is for what the command says; all else that prints there (Ray, native code) gets stderr.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def say(document: dict[str, Any], text: str) -> None:
            out.write(f"{json.dumps(document) if as_json else text}\n")
            out.flush()

        try:
            command(say)
        except RaydistillError as error:
            typer.echo(f"error: {error}", err=True)
            if as_json:
                say({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}, "")
            raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    app()
