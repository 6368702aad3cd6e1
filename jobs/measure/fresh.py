"""Runs in a process of its own and answers with a bundle: what loading and answering take where nothing else lives.

`python -P fresh.py ORDER.json` with the bundle on PYTHONPATH, so that the code that answers is the bundle's own
`predict.py`: no Ray, no torch, nothing of `jobs`. Prints one JSON line. The order: `bundle`, its `engine`, `items`,
and where given `cpus` (cores it may use, as taskset does) and `memory_bytes` (its private memory, RLIMIT_DATA).
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

WARM_UP = 5
BATCH = 32


def main(path: str) -> None:
    """Carry out the order and print what it took: times in ms, memory in bytes, rates in requests per second."""
    order = json.loads(Path(path).read_text(), object_hook=_value)
    if order["cpus"] is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["cpus"]])
    if order["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory_bytes"], order["memory_bytes"]))
    started = time.perf_counter()
    for library in ("numpy", order["engine"]):  # what every such bundle imports: the runtime's memory, not the model's
        importlib.import_module(library)
    predict: Any = importlib.import_module("predict")  # the bundle's own file, whatever lies in this checkout
    imported, runtime = time.perf_counter(), memory("VmHWM")
    engine = predict.load(order["bundle"])
    loaded = time.perf_counter()
    told = answered(engine, order["items"])
    report = {
        "import_ms": (imported - started) * 1e3, "load_ms": (loaded - imported) * 1e3, "rss_runtime_bytes": runtime,
        "rss_peak_bytes": memory("VmHWM"), "threads": engine.spec["threads"], "cpus": len(os.sched_getaffinity(0)),
        **told,
    }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")


def _value(found: dict[str, Any]) -> Any:
    """Bytes are written as {"base64": text}."""
    return base64.b64decode(found["base64"]) if found.keys() == {"base64"} else found


def answered(engine: Any, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Time per request one by one (ms, one number each), CPU time, and rows per second in batches where answers do not
    depend on the batch."""
    for item in items[:WARM_UP]:
        engine.predict([item])
    took, before = [], time.process_time()
    for item in items:
        started = time.perf_counter()
        engine.predict([item])
        took.append((time.perf_counter() - started) * 1e3)
    cpu_ms = (time.process_time() - before) * 1e3 / len(items)
    batched = None
    if engine.spec["batch_invariant"] or engine.spec["scheme"] == "float32":
        many = (items * -(-2 * BATCH // len(items)))[: 2 * BATCH]
        started = time.perf_counter()
        for start in range(0, len(many), BATCH):
            engine.predict(many[start : start + BATCH])
        batched = len(many) / (time.perf_counter() - started)
    return {"took_ms": took, "cpu_ms": cpu_ms, "rows_per_s_batched": batched}


def memory(field: str) -> int:
    """A line of /proc/self/status (bytes). Not getrusage: its peak is the parent's where the child began as a fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main(sys.argv[1])
