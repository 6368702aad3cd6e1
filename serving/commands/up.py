"""`serving up`: find what was promoted, connect Ray, serve until asked to end; in this process or in one of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from cluster.errors import InputError, RaydistillError, StoreError
from serving.commands import address

if TYPE_CHECKING:
    from cluster.recipe import ResourcesSection
    from cluster.recipe.serving import ServingSection
    from serving.deployment.app import Options
    from serving.deployment.promoted import Catalog, Promoted
    from serving.deployment.served import ServedArm

Say = Callable[[dict[str, Any], str], None]  # the one JSON document, or its text for people

STOP_S, POLL_S, DETACH_S = 60.0, 0.1, 300.0
LOG = "log"


@dataclass(frozen=True)
class Wanted:
    """What is to be served, and on what."""

    what: str
    found: Promoted
    section: ServingSection
    resources: ResourcesSection
    options: Options


def wanted(target: str, store_root: str, changes: Sequence[str]) -> Wanted:
    """What RECIPE or MODEL@ALIAS names. Raises InputError when nothing of it was promoted, or the recipe is wrong."""
    from cluster import recipe as recipes
    from cluster.recipe import ResourcesSection
    from cluster.recipe.serving import ServingSection
    from cluster.store import Store
    from serving.deployment import promoted
    from serving.deployment.app import Options
    from serving.monitoring import watcher

    store = Store.open(store_root)
    model, at, alias = target.rpartition("@")
    if at:
        if changes:
            raise InputError("--set changes a recipe, and none was named", got=changes[0], expected="RECIPE")
        catalog = promoted.Catalog(str(store.root), model)
        found = catalog.find(alias)
        if found is None:
            raise InputError(f"no version of {model} is {alias}", expected="python -m jobs promote RECIPE")
        section, resources, recipe = ServingSection(), ResourcesSection(), None
    else:
        recipe = recipes.load(target, changes)
        catalog = promoted.catalog_of(recipe, store)
        found = promoted.find(recipe, store)
        section, resources, target = recipe.serving, recipe.resources, recipe.name
    observer = watcher.spec(store, found.names.model, found.names.version, recipe)
    arms = [arm for name in watcher.arms(observer) for arm in _challengers(catalog, found, name)]
    options = Options(arms=tuple(arms), observer=observer, catalog=catalog)
    return Wanted(target, found, section, resources, options)


def _challengers(catalog: Catalog, found: Promoted, name: str) -> Iterator[ServedArm]:
    """The registered challenger of this name with the share that the last change left this version, else none; who
    watches may ramp it.

    One that is not fit is left out, and said so: the champion is served all the same.
    """
    from serving.bundle import predict
    from serving.deployment import changes
    from serving.deployment.document import app_of
    from serving.deployment.served import spec_of
    from serving.students import swap

    try:
        arm = catalog.arm(name, name)
        if arm is None or arm.version == found.names.version:
            return
        swap.fits(predict.verify(Path(arm.bundle)), spec_of(found.bundle))
    except (predict.BundleError, StoreError) as error:
        typer.echo(f"the {name} is left out: {error}", err=True)
        return
    known = changes.remembered(catalog.decisions, catalog.model)
    weight = known[name][1] if name in known and known[name][0] == arm.version else 0.0
    yield arm.model_copy(update={"weight": weight, "app": app_of(arm.bundle)})


def serve(asked_for: Wanted, folder: Path, say: Say) -> None:
    """Serve until Ctrl-C or SIGTERM; the address is there while it answers."""
    from cluster.session import disconnect
    from serving.deployment.app import stop

    asked = threading.Event()
    _on_signals(asked)
    with address.claimed(folder) as publish:
        start = Start(asked_for, asked)
        try:
            running = start.wait()
            if running is not None:
                names = asked_for.found.names
                known = {"pid": os.getpid(), "url": running.url, "recipe": asked_for.what}
                known |= {"model": names.model, "version": names.version}
                publish(known | {"key": running.key})
                say(known, f"{names.model} version {names.version} answers at {running.url} (Ctrl-C ends it)")
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

    def __init__(self, asked_for: Wanted, asked: threading.Event) -> None:
        """`asked` is set when the service shall end; a start that has not begun then does not begin."""
        self._wanted, self._asked = asked_for, asked
        self._running: Any = None
        self._failure: BaseException | None = None
        self.started, self.over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> Any:
        """The running service, None when it is asked to end before it has started; raises what starting raised."""
        while not self.started.wait(POLL_S) and not self._asked.is_set():
            _on_signals(self._asked)  # Ray's native code takes SIGTERM over when it connects, and would abort on it
        _on_signals(self._asked)
        if self._failure is not None:
            raise self._failure
        return self._running

    def _run(self) -> None:
        from cluster.session import connect
        from serving.deployment import app as service

        found, wanted = self._wanted.found, self._wanted
        # Said of every thread that is not the main one; signals are ours here.
        logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.msg)
        try:
            connect(wanted.resources, role="serving")
            if not self._asked.is_set():
                self._running = service.start(
                    found.bundle, found.teacher, wanted.section, names=found.names, options=wanted.options
                )
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, raised there
            self._failure = error
        self.started.set()
        self.over.wait()


def detach(arguments: Sequence[str], folder: Path, say: Say) -> None:
    """Serve in a process of its own; returns when it answers. Raises RaydistillError with its last words when it
    ends."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if address.read(folder) is not None:
        raise InputError("this store is being served already", hint="python -m serving down ends it")
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "up", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + DETACH_S
    while time.monotonic() < until and process.poll() is None:
        known = address.read(folder)
        if known:
            known.pop("key")
            what = f"{known['model']} version {known['version']}"
            say(known, f"{what} answers at {known['url']} (python -m serving down ends it)")
            return
        time.sleep(POLL_S)
    if process.poll() is None:
        process.terminate()
    last = (folder / LOG).read_text(errors="replace")[-1000:].strip()
    raise RaydistillError(f"the service did not come up: {last}")


def _on_signals(asked: threading.Event) -> None:
    def note(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # set by Ray's native handler, when it was the first to see the signal: it aborts 3 s later
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
