"""What every engine of a bundle costs on this machine, side by side: memory, load time, operations, CPU and rate."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.measured import STUDENT, STUDENT_INT8, TEACHER
from jobs.export import engine_bytes
from jobs.measure import alone, graph_cost, sizes
from serving.bundle import predict

COUNTED = 2  # requests whose graphs are profiled
FLOAT = {STUDENT: "float32", TEACHER: "teacher"}  # model -> the folder of its float32 graphs below the bundle


def engines(bundle: Path) -> dict[str, Path]:
    """Name -> folder of everything in a bundle that answers: the served one and the float32 ones that are there."""
    return {STUDENT_INT8: bundle} | {
        name: bundle / folder for name, folder in FLOAT.items() if (bundle / folder / "bundle.json").is_file()
    }


def measure(
    bundle: Path,
    items: Sequence[Mapping[str, Any]],
    timed: Mapping[str, Mapping[str, float] | None],
    others: Mapping[str, Path],
) -> dict[str, Any]:
    """`machine` and `engines`: one line per engine of the bundle and of `others` (name -> folder), from a fresh process
    each. `timed` are the interleaved latencies in the exam, which stand where there are any; those of the fresh process
    else."""
    found = {}
    for name, folder in {**engines(bundle), **others}.items():
        spec, calls = predict.verify(folder), _calls(folder, items)
        plain = bundle / FLOAT[STUDENT] if name not in FLOAT else folder
        own = alone.answer(bundle, folder, items)
        latency = timed.get(name) or own["latency_ms"]
        found[name] = {
            "engine": " ".join(alone.engine_of(folder)), "scheme": spec["scheme"], "file_bytes": engine_bytes(folder),
            **{key: own[key] for key in ("load_ms", "rss_peak_bytes", "rss_runtime_bytes", "cpu_ms", "cpu_share",
                                         "requests_per_s", "rows_per_s_batched", "threads")},
            "activation_peak_bytes": graph_cost.activation_bytes(calls) if calls else None,
            "flops_per_request": _flops(plain, items), "kv_bytes_per_token": sizes.kv_bytes_per_token(spec),
            "latency_ms": dict(latency),
        }  # fmt: skip
    return {"machine": {"cpus": os.cpu_count(), "model": _processor()}, "engines": found}


def _flops(folder: Path, items: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean operations of a request by a float32 bundle; None where there is none."""
    if not (folder / "bundle.json").is_file() or not (calls := _calls(folder, items)):
        return None
    return graph_cost.flops(calls) / min(COUNTED, len(items))


def _calls(folder: Path, items: Sequence[Mapping[str, Any]]) -> dict[Path, list[graph_cost.Feeds]]:
    """What the graphs of a bundle are fed by a few requests; {} where its files are encrypted or no ONNX."""
    engine = predict.load(folder)
    if any(entry["encrypted"] for entry in engine.spec["files"].values()):
        return {}
    return graph_cost.fed(engine, folder, items[:COUNTED])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()
