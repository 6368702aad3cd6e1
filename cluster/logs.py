"""Logs for machines: one JSON object a line, each with the run, the job and the trace that it belongs to.

Asked for by RAYDISTILL_LOG_FORMAT=json, which travels with a submitted job.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
import traceback
from typing import Any, TextIO

from cluster import tracing

VARIABLE = "RAYDISTILL_LOG_FORMAT"
RUN_ID = "RAYDISTILL_RUN_ID"  # stamped at submit, else set by whoever starts a run
JOB_ID = "RAY_JOB_SUBMISSION_ID"
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def as_json() -> bool:
    """Tell whether logs are asked for as JSON."""
    return os.environ.get(VARIABLE) == "json"


def belongs_to(run: str) -> None:
    """Let what this process and the ones it starts log from now on carry this run's name."""
    os.environ[RUN_ID] = run


class JsonFormatter(logging.Formatter):
    """A record as one line: time (UTC, ms), level, logger, message, run, host, pid, and `extra` fields as they are.

    `error` holds a traceback where there is one, `trace` and `span` the ids where tracing is on.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what has no JSON form is written as text."""
        seconds, milliseconds = divmod(record.created, 1)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line: dict[str, Any] = {
            "time": f"{at}.{int(milliseconds * 1000):03d}Z", "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), "run": os.environ.get(RUN_ID), "host": socket.gethostname(),
            "pid": record.process,
        }  # fmt: skip
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        line |= tracing.ids()
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def handler(stream: TextIO | None = None) -> logging.Handler:
    """Return a handler that writes JSON lines, to stderr where no stream is given."""
    made = logging.StreamHandler(stream or sys.stderr)
    made.setFormatter(JsonFormatter())
    return made
