"""The edge between `python -m cluster` and whoever called it: one answer on stdout, a readable error, an exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from cluster.errors import RaydistillError

INTERRUPTED = 130  # the shell's code for Ctrl-C


@dataclass(frozen=True)
class Edge:
    """Where a command writes: `out` is the caller's stdout, as text or as the one JSON document."""

    out: TextIO
    as_json: bool

    def answer(self, document: Mapping[str, Any], text: str) -> None:
        """Print the command's result, as its one JSON document or as `text`."""
        self.tell(json.dumps(document, allow_nan=False) if self.as_json else text)

    def tell(self, line: str) -> None:
        """Print one more line on the caller's stdout: a log that is followed, a file that is written to stdout."""
        self.out.write(f"{line}\n")
        self.out.flush()


def note(line: str) -> None:
    """Say something on stderr that is not the command's answer."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def execute(command: Callable[[Edge], int | None], as_json: bool) -> int:
    """Run a command and return its exit code: what it returns (None: 0), that of a RaydistillError, or 130.

    Everything else that prints to stdout meanwhile (libraries, native code) gets stderr. What is raised on purpose
    ends as one message; anything else is a defect and keeps its traceback.
    """
    _log_to_stderr()
    with reserved_stdout() as out:
        edge = Edge(out, as_json)
        try:
            return command(edge) or 0
        except RaydistillError as error:
            return _failed(edge, error, error.exit_code, f"error: {error}")
        except KeyboardInterrupt as error:
            return _failed(edge, error, INTERRUPTED, "interrupted")
        except Exception as error:  # noqa: BLE001 - the edge: with --json there is a document whatever happened
            return _failed(edge, error, 1, traceback.format_exc())


@contextlib.contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Yield the caller's stdout; until the end all else that prints there (libraries, native code) gets stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            yield out
        finally:
            sys.stdout.flush()
            out.flush()
            os.dup2(out.fileno(), 1)


def failure(error: BaseException, code: int) -> dict[str, Any]:
    """The one JSON document of a command that ended with this error and exit code."""
    return {"error": type(error).__name__, "message": str(error), "exit_code": code}


def _failed(edge: Edge, error: BaseException, code: int, text: str) -> int:
    note(text)
    if edge.as_json:
        edge.tell(json.dumps(failure(error, code)))
    return code


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cluster").setLevel(logging.INFO)
