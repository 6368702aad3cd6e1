"""The student in several engines: what each makes of the exam and its time, taken in turn with all the others.

The first row is the bundle that is served; the others are what `evaluate.engines` names (`jobs.packing.beside`). What
each takes of memory and processor stands in the cost table, by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from jobs.measure.contenders import Contender
from serving.bundle import predict

NONE = "evaluate.engines names no engine beside the served one"


def table(
    compared: Mapping[str, Contender], score: Callable[[str], Mapping[str, float]], same: Callable[[str], float],
    timed: Mapping[str, Mapping[str, float]],
) -> dict[str, Any] | None:  # fmt: skip
    """Name -> `engine` (with its version), `scheme`, `metrics`, `agreement_float` (share of answers as the float
    student gives them), `bytes`, `batch_invariant` and `latency_ms`; None where nothing stands beside what is served.

    `score` and `same` tell those of a name, `timed` holds the interleaved latencies.
    """
    if len(compared) < 2:
        return None
    return {
        name: {
            **_about(one), "metrics": dict(score(name)), "agreement_float": same(name), "bytes": one.bytes,
            "latency_ms": dict(timed[name]),
        }
        for name, one in compared.items()
    }  # fmt: skip


def _about(one: Contender) -> dict[str, Any]:
    spec = cast(predict.Answerer, one.engine).spec
    engine = spec["engine"]
    return {"engine": f"{engine['name']} {engine['version']}", "scheme": spec["scheme"],
            "batch_invariant": spec["batch_invariant"]}  # fmt: skip
