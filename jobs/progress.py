"""Shows where a run is: a line that moves on a terminal, a line now and then in a log, and one that stays per verb."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from cluster.store import Artifact

LOG_EVERY_S = 20.0  # in a file nobody wants a line per second
NAME_WIDTH = 9


class Progress:
    """The `jobs.pipeline.Watcher` of the command line. A context: leaving it on an error marks the verb that failed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._verb = ""
        self._scratch: list[Path] = []
        self._since = 0.0
        self._live: Live | None = None
        self._quiet = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._verb:
            self._console.print(f"[red]✗[/red] {self._verb:{NAME_WIDTH}} {time.monotonic() - self._since:6.1f} s")

    def started(self, verb: str, scratch: list[str]) -> None:
        """A verb begins; training leaves `<arm>.progress` files in the `scratch` folders."""
        self._verb, self._scratch, self._since = verb, [Path(one) for one in scratch], time.monotonic()
        if self._console.is_terminal:
            spinner = Spinner("dots")
            self._live = Live(console=self._console, transient=True, get_renderable=lambda: self._moving(spinner))
            self._live.start()
        else:
            self._console.print(f"  {verb} ...")
            self._quiet = threading.Event()
            threading.Thread(target=self._log, args=(self._quiet,), name="progress", daemon=True).start()

    def finished(self, verb: str, artifacts: list[Artifact], seconds: float, reused: bool) -> None:
        """A verb is done; `seconds` of this run."""
        self._stop()
        self._verb = ""
        made = "  ".join(f"{artifact.kind} {artifact.id}" for artifact in artifacts)
        took = "    reused" if reused else f"{seconds:8.1f} s"
        self._console.print(f"[green]✓[/green] {verb:{NAME_WIDTH}}{took}  [dim]{escape(made)}[/dim]", highlight=False)

    def now(self) -> str:
        """What the running trainings say of themselves, in one line; empty where nothing trains."""
        return " · ".join(
            line for folder in self._scratch for line in map(_line, sorted(folder.glob("*.progress"))) if line
        )

    def _moving(self, spinner: Spinner) -> Spinner:
        elapsed = time.monotonic() - self._since
        spinner.update(
            text=Text(f"{self._verb:{NAME_WIDTH}}{elapsed:8.0f} s  {self.now()}", overflow="ellipsis", no_wrap=True)
        )
        return spinner

    def _log(self, quiet: threading.Event) -> None:
        while not quiet.wait(LOG_EVERY_S):
            elapsed = time.monotonic() - self._since
            self._console.print(f"  {self._verb:{NAME_WIDTH}}{elapsed:8.0f} s  {escape(self.now())}", highlight=False)

    def _stop(self) -> None:
        self._quiet.set()
        if self._live is not None:
            self._live.stop()
            self._live = None


def read(path: Path) -> dict[str, Any] | None:
    """One training's `{"stage", "step", "steps", "loss", "terms"}`; None when it is being replaced right now."""
    try:
        seen: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return seen


def _line(path: Path) -> str:
    """One training's progress as text; empty when it is being replaced right now.

    Several terms are each shown with their value and their realised share of the gradient's loss.
    """
    seen = read(path)
    if seen is None:
        return ""
    terms = [f"{name} {value:.3f} {share:.0%}" for name, (value, share) in seen["terms"].items()]
    told = f" ({', '.join(terms)})" if len(terms) > 1 else ""
    loss = "" if seen["loss"] is None else f", loss {seen['loss']:.3f}"
    return f"{path.stem}: {seen['stage']} {seen['step']}/{seen['steps']}{loss}{told}"
