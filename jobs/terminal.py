"""The edge between a command and whoever called it: stdout for the answer alone, a readable error, an exit code, and
an end in time when it is interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from types import FrameType
from typing import Any, NoReturn, TextIO

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.text import Text

from cluster import logs
from cluster.edge import failure, reserved_stdout
from cluster.errors import RaydistillError

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNAL_CODE = 128  # the shell's: 130 for Ctrl-C, 143 for SIGTERM
POLL_S = 0.1
FILE_WIDTH = 140  # columns
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # one bar for every model that is loaded or written
    "RAY_DATA_LOG_LEVEL": "ERROR",  # else it prints its plan, and a warning that its progress bars are off
}
REAPER = "import time; from cluster.session import reap\nwhile reap(): time.sleep(0.5)"
OURS = ("cluster", "jobs", "serving", "tuning")


class Interrupted(Exception):
    """The user or the system asked this process to end; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}: what is done is kept, the same command goes on from there")
        self.number = number


@dataclass
class Terminal:
    """Where a command writes: `out` is the caller's stdout, `console` (stderr) shows progress and logs.

    answered: the one answer is out. What fails after it (a check on what was just shown) has the exit code left to say.
    """

    out: TextIO
    console: Console
    as_json: bool
    answered: bool = False

    def answer(self, document: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """Print the command's result, as its one JSON document or as `show` prints it for people."""
        self.answered = True
        if self.as_json:
            print(json.dumps(document, allow_nan=False), file=self.out, flush=True)
        else:
            show(self.answers())

    def answers(self) -> Console:
        """The caller's stdout as a console; in a file or a pipe wide enough for every table of ours."""
        return Console(file=self.out, width=None if self.out.isatty() else FILE_WIDTH)


def say(console: Console, what: RenderableType) -> None:
    """Print a part of an answer: a line as it is, neither wrapped nor cropped nor read as markup, so that a script
    finds the path in it whole; what lays itself out (a table) within the console's width."""
    line = isinstance(what, str | Text)
    console.print(what, soft_wrap=line, crop=False, markup=False if line else None, highlight=False)


def whole(line: str) -> Text:
    """A line that `say` prints whole among other parts of one answer."""
    return Text(line, no_wrap=True, overflow="ignore")


def execute(command: Callable[[Terminal], None], as_json: bool) -> int:
    """Run a command and return its exit code: 0, that of a RaydistillError, or 128 + the signal that ended it.

    What is raised on purpose ends as one message on stderr (and, with `as_json`, one document on stdout); anything
    else is a defect and keeps its traceback.
    """
    with reserved_stdout() as out:
        width = None if sys.stderr.isatty() else FILE_WIDTH
        # Where stderr is read by a machine, progress is told by the log (jobs.metered).
        terminal = Terminal(out, Console(stderr=True, width=width, quiet=logs.as_json()), as_json)
        _log_to(terminal.console)
        try:
            _in_thread(lambda: command(terminal))
            return 0
        except RaydistillError as error:
            return _failed(terminal, error, error.exit_code, f"error: {error}")
        except Interrupted as error:
            _leave(out, _failed(terminal, error, SIGNAL_CODE + error.number, str(error)))
        except Exception as error:  # noqa: BLE001 - the edge: with --json there is a document whatever happened
            return _failed(terminal, error, 1, traceback.format_exc())


def _failed(terminal: Terminal, error: Exception, code: int, text: str) -> int:
    """Say on stderr (and, with --json, in the one document, where there is none yet) how a command ended.

    Returns `code`.
    """
    print(text, file=sys.stderr, flush=True)
    if terminal.as_json and not terminal.answered:
        print(json.dumps(failure(error, code)), file=terminal.out, flush=True)
    return code


def _log_to(console: Console) -> None:
    """Show warnings of everyone and what our own folders have to tell, between the lines of progress.

    Comes before any library is imported: they read their variables then.
    """
    plain = RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    handler = logs.handler() if logs.as_json() else plain
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    # transformers imports it wherever it is installed, and it lists the GPU kernels that cannot be loaded.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Said of every thread that is not the main one; signals are ours here.
    logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler is not set" not in record.msg)


def _in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread and wait; raises what it raised, or Interrupted on SIGINT and SIGTERM.

    A thread, because Ray sets handlers of its own from the main one: TorchTrainer.fit leaves one behind that turns
    every later Ctrl-C into exit code 0, and a pool of two trainers would wait for both before it lets the error out.
    """
    failure: list[BaseException] = []
    received: list[int] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, raised there
            failure.append(error)

    def note(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # set by Ray's native handler, when it was the first to see the signal: it aborts 3 s later
        if received:
            os._exit(SIGNAL_CODE + number)  # asked twice: now
        received.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    thread = threading.Thread(target=run, name="command", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not received:
            thread.join(POLL_S)
            for number in SIGNALS:
                signal.signal(number, note)  # Ray's native code takes SIGTERM over whenever it connects
        if received:
            raise Interrupted(received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failure:
        raise failure[0]


def _leave(out: TextIO, code: int) -> NoReturn:
    """End now, as kill -9 would: nothing is asked of Ray.

    Its shutdown aborts natively under a thread that is still inside it, and its exit hooks wait for that thread. What
    an embedded Ray leaves counts as left behind from the moment this process is gone, so another one ends it.
    """
    if "ray" in sys.modules:
        subprocess.Popen([sys.executable, "-c", REAPER], cwd=ROOT, start_new_session=True, stdin=DEVNULL,
                         stdout=DEVNULL, stderr=DEVNULL)  # fmt: skip
    sys.stderr.flush()
    out.flush()
    os._exit(code)
