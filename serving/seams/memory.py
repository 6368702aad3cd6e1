"""What a replica holds in memory, told to Prometheus for as long as it lives: gateways, students, teachers alike."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Literal

from cluster import metrics
from cluster.deploy.alerts import GIB, MEMORY_GIB

log = logging.getLogger(__name__)

Kind = Literal["gateway", "student", "teacher"]
REPORT_S = 5.0
LIMIT = MEMORY_GIB * GIB  # bytes; of the alert RaydistillMemory


def resident_bytes() -> int:
    """Memory that this process holds (bytes; Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Report:
    """One replica's gauge `replica_memory_bytes`; `model` is the registered model it serves, or serves beside."""

    def __init__(self, kind: Kind, model: str) -> None:
        self._tags = {"model": model, "replica": uuid.uuid4().hex[:8], "kind": kind}

    def tell(self) -> int:
        """Set the gauge; the bytes."""
        held = resident_bytes()
        metrics.gauge("replica_memory_bytes").set(held, tags=self._tags)
        return held

    def loaded(self) -> None:
        """Tell it now that the model is loaded, and from here on every REPORT_S until the process ends; what is over
        the alert's limit from the start is said at once, before anybody waits for the alert."""
        held = self.tell()
        if held > LIMIT:
            who = (self._tags["kind"], self._tags["model"], held / GIB, MEMORY_GIB)
            log.warning("a %s of %s holds %.1f GiB as soon as it is loaded, more than %d GiB", *who)
        threading.Thread(target=self._run, name="memory", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(REPORT_S)
            self.tell()
