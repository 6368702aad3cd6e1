"""Engines side by side on MiniLM fine-tuned on banking77: accuracy, bytes, and time at batch 1 with tokenizing.

The teacher is the one of the recipe `banking77`, fitted once into the store that the text quality cells share (so it
is there already where those ran), and so is the student. What an engine answered on the 3,080 test rows is a cell: a
JSON file, made once. Times are taken anew in every run, all engines in short turns, on one thread.

    RAYDISTILL_CELLS=... pytest -m slow tests/benchmarks/test_engines.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from cluster.recipe import Recipe, load
from cluster.store import Store
from jobs import export, fit, tasks
from jobs.measure import latency
from jobs.packing import calibration, checking, writing
from jobs.quantize import graph
from jobs.quantize.plan import Plan
from serving.bundle import predict
from serving.teachers import transformers

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "text"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve()
STORE, OWN = CELLS / "texts" / "store", CELLS / "engines"
REQUESTS = 400  # timed, after a warm-up
REFERENCE = "torch_eager"
SCHEMES = {
    "onnxruntime_float32": ("onnxruntime", Plan("float32")),
    "onnxruntime_fast": ("onnxruntime", Plan("fast")),
    "onnxruntime_exact": ("onnxruntime", Plan("exact", 32)),
    "onnxruntime_weights": ("onnxruntime", Plan("weights")),
    "onnxruntime_static": ("onnxruntime", Plan("static")),
    "openvino_static": ("openvino", Plan("static")),
    "openvino_weights": ("openvino", Plan("weights")),
    "torch_script": ("torch", Plan("float32")),
    "torch_script_bfloat16": ("torch", Plan("bfloat16")),
}
PEER = "onnxruntime_quantize_dynamic"  # what ONNX Runtime's own call makes of the same file: no fused attention

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(6 * 3600),
    pytest.mark.skipif(not DATA.is_dir(), reason="needs banking77 in ../shared/data/text"),
]


class Eager:
    """The teacher as transformers runs it: torch, float32, eager, with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = transformers.load(folder)

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""
        with torch.no_grad():
            return list(self.model.answer(items))


def overrides() -> list[str]:
    files = [f"data.{split}={DATA / f'banking77_{split}.parquet'}" for split in ("train", "test")]
    off = [f"evaluate.gates.{gate}=null" for gate in ("retention_min", "above_control", "teacher_metric_min")]
    return [*files, *off, "distill.seed=0"]  # those of the text quality cells: the same artifacts


def run(verb: Sequence[str]) -> dict[str, Any]:
    """A command of the pipeline on the recipe, resumed where its store stands."""
    words = [word for value in overrides() for word in ("--set", value)]
    command = [sys.executable, "-m", "jobs", *verb, "--store", str(STORE), "--json", *words]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load("banking77", overrides())


@pytest.fixture(scope="module")
def teacher(recipe: Recipe) -> Path:
    """The fitted teacher's folder."""
    store = Store.open(STORE)
    if fit.STEP.find(recipe, store) is None:
        run(["fit", "banking77"])
    return store.get("teacher", fit.STEP.id(recipe)).path() / "hf"


@pytest.fixture(scope="module")
def rows(recipe: Recipe) -> tuple[list[dict[str, Any]], list[str]]:
    """Test requests and their true answers."""
    asked = tasks.of(recipe).requests("test").select(["prompt", "label_name"]).to_pylist()
    return [{"text": row["prompt"]} for row in asked], [row["label_name"] for row in asked]


@pytest.fixture(scope="module")
def bundles(recipe: Recipe, teacher: Path) -> dict[str, Path]:
    """MiniLM's bundle per engine and scheme, made once for a teacher."""
    base = OWN / teacher.parent.name
    plain = base / "float32"
    if not (plain / "bundle.json").is_file():
        export.plain(teacher, plain, recipe)
    calls = None
    for name, (engine, plan) in SCHEMES.items():
        out = base / name
        if (out / "bundle.json").is_file():
            continue
        out.mkdir(parents=True, exist_ok=True)
        if plan.scheme == "static" and calls is None:
            train = tasks.of(recipe).requests("train").slice(0, 9003).to_pylist()
            calls = calibration.recorded(plain, checking.check_items(train, 256))
        fed = plan if calls is None else plan.fed(calls)
        own = recipe.model_copy(update={"export": recipe.export.model_copy(update={"engine": engine})})
        scripted = engine == "torch"
        fields = writing.scripted(teacher, out, fed) if scripted else writing.student(plain, out, own, fed)
        writing.describe(out, predict.verify(plain) | fields, own)
    peer = base / PEER
    if not (peer / "bundle.json").is_file():
        peer.mkdir(parents=True, exist_ok=True)
        fields = writing.student(plain, peer, recipe, Plan("float32"))
        with graph.quiet():
            quantize_dynamic(plain / "model.onnx", peer / "model.onnx", weight_type=QuantType.QInt8)
        writing.describe(peer, predict.verify(plain) | fields | {"scheme": "fast"}, recipe)
    return {name: base / name for name in (*SCHEMES, PEER)}


def answers(name: str, engine: Any, items: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """What an engine says to every test row, asked one by one; kept in a cell."""
    path = OWN / "answers" / f"{key}_{name}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        said = [engine.predict([item])[0].text for item in items]
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(said))
        aside.replace(path)
    return list(json.loads(path.read_text()))


def test_int8_minilm_keeps_its_accuracy_and_is_three_times_faster_and_smaller(
    record: Callable[..., None], recipe: Recipe, teacher: Path, bundles: dict[str, Path],
    rows: tuple[list[dict[str, Any]], list[str]],
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    items, truth = rows
    engines: dict[str, Any] = {REFERENCE: Eager(teacher)}
    engines |= {name: predict.load(folder) for name, folder in bundles.items()}
    key = teacher.parent.name
    said = {name: answers(name, engine, items, key) for name, engine in engines.items()}
    accuracy = {name: float(np.mean([a == b for a, b in zip(own, truth, strict=True)])) for name, own in said.items()}
    agreement = {
        name: float(np.mean([a == b for a, b in zip(own, said[REFERENCE], strict=True)])) for name, own in said.items()
    }
    took = latency.interleaved(engines, latency.chosen(items, REQUESTS, 0), 0)
    sizes = {name: export.engine_bytes(folder) for name, folder in bundles.items()}
    sizes[REFERENCE] = sum(path.stat().st_size for path in teacher.glob("*.safetensors"))
    for name, own in took.items():
        record(f"engines.minilm.{name}", f"MiniLM on banking77 by {name}: p50 at batch 1 with tokenizing, 1 thread",
               own["p50"], "ms", peer="torch float32 eager", peer_value=took[REFERENCE]["p50"], p95=own["p95"],
               times_faster=took[REFERENCE]["p50"] / own["p50"], accuracy=accuracy[name], agreement=agreement[name],
               bytes=sizes[name])  # fmt: skip
    points = 100 * (accuracy[REFERENCE] - accuracy["onnxruntime_fast"])
    record("engines.minilm.int8_points", "MiniLM on banking77: accuracy that INT8 (ONNX Runtime, fast) costs", points,
           "points", bar="<= 0.5", passed=points <= 0.5, accuracy=accuracy, agreement=agreement)  # fmt: skip
    faster = took[REFERENCE]["p50"] / took["onnxruntime_fast"]["p50"]
    record("engines.minilm.int8_faster", "MiniLM: INT8 against torch float32 eager, p50 at batch 1 with tokenizing",
           faster, "x", bar=">= 3", passed=faster >= 3,
           p95=took[REFERENCE]["p95"] / took["onnxruntime_fast"]["p95"])  # fmt: skip
    smaller = sizes["onnxruntime_float32"] / sizes["onnxruntime_fast"]
    record("engines.minilm.int8_smaller", "MiniLM: float32 file over the INT8 file, embeddings included", smaller, "x",
           bar=">= 3", passed=smaller >= 3, bytes=sizes)  # fmt: skip
    assert points <= 0.5
    assert faster >= 3
    assert smaller >= 3


def test_the_student_is_thirty_times_faster_than_its_teacher(
    record: Callable[..., None], recipe: Recipe, teacher: Path, bundles: dict[str, Path],
    rows: tuple[list[dict[str, Any]], list[str]],
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    items, truth = rows
    made = run(["run", "banking77", "--until", "export"])["artifacts"]["bundle"]
    student = Store.open(STORE).get("bundle", made).path()
    engines: dict[str, Any] = {
        "teacher_torch": Eager(teacher), "teacher_int8": predict.load(bundles["onnxruntime_fast"]),
        "teacher_quantize_dynamic": predict.load(bundles[PEER]), "student": predict.load(student),
    }  # fmt: skip
    key = teacher.parent.name
    said = {
        "teacher_torch": answers(REFERENCE, engines["teacher_torch"], items, key),
        "student": answers(f"student_{made}", engines["student"], items, key),
    }
    right = {name: float(np.mean([a == b for a, b in zip(own, truth, strict=True)])) for name, own in said.items()}
    took = latency.interleaved(engines, latency.chosen(items, REQUESTS, 0), 0)
    for name, bar in (("teacher_torch", 30), ("teacher_int8", 5), ("teacher_quantize_dynamic", 5)):
        faster = took[name]["p50"] / took["student"]["p50"]
        record(f"engines.student_over_{name}", f"banking77: INT8 student against {name}, p50 with tokenizing, batch 1",
               faster, "x", bar=f">= {bar}", passed=faster >= bar, latency_ms=took)  # fmt: skip
    size, retention = export.engine_bytes(student), right["student"] / right["teacher_torch"]
    record("engines.student_bytes", "banking77: the INT8 student's file", size / 1e6, "MB", bar="<= 5",
           passed=size <= 5_000_000)  # fmt: skip
    record("engines.student_retention", "banking77: INT8 student's accuracy over the teacher's, seed 0", retention,
           "ratio", bar=">= 0.99", passed=retention >= 0.99, accuracy=right)  # fmt: skip
