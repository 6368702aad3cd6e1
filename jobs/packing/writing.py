"""Writes a bundle's files: graphs under a plan, the code that answers, golden samples, and the sealed description."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.canonical import file_digest
from cluster.recipe import Recipe
from jobs import quantize
from jobs.packing import graphs
from jobs.quantize.plan import Plan
from serving import engines
from serving.bundle import files, golden, predict, seal

TIMINGS, TOKENS_MAX = "timing.cache", 512  # of TensorRT: what it measured, and the longest text an engine takes
MOBILE = "mobile"  # the folder of ORT-format graphs
GOLDEN_BYTES_MAX = 1 << 20  # of all golden samples together


def student(source: Path, target: Path, recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """Write a float32 ONNX bundle's graphs as `plan` says for `recipe.export.engine`, with its tables, its tokenizer
    and the code that answers, into the existing folder `target`; returns `scheme` and `engine` of the description."""
    name = recipe.export.engine
    for graph in sorted(source.glob("*.onnx")):
        quantize.ENGINES[name][plan.scheme](graph, target / graph.name, plan)
    if name == "tensorrt":
        _build(target, recipe)
    return _around(source, target, name, plan)


def scripted(model: Path, target: Path, plan: Plan) -> dict[str, Any]:
    """The same for engine torch, from a model folder: TorchScript, whose precision the engine sets."""
    with tempfile.TemporaryDirectory() as folder:
        graphs.export(model, Path(folder) / "plain", None)
        for file in sorted((Path(folder) / "plain").glob("*.pt")):
            shutil.copyfile(file, target / file.name)
        return _around(Path(folder) / "plain", target, "torch", plan)


def _build(folder: Path, recipe: Recipe) -> None:
    """Put TensorRT's engine in the place of each ONNX file; what it timed goes from one build to the next."""
    from serving.engines import tensorrt

    timings = b""
    for graph in sorted(folder.glob("*.onnx")):
        plan, timings = tensorrt.build(graph.read_bytes(), recipe.export.batch_max, TOKENS_MAX, timings)
        graph.with_suffix(tensorrt.FILE).write_bytes(plan)
        graph.unlink()
    (folder / TIMINGS).write_bytes(timings)


def _around(source: Path, target: Path, engine: str, plan: Plan) -> dict[str, Any]:
    graphs.copy_tokenizer(source, target)
    for table in sorted(source.glob("*.npy")):  # vectors of what a retriever ranks: the float student's
        shutil.copyfile(table, target / table.name)
    for name, file in code().items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
    return {"scheme": plan.scheme, "engine": about(engine, plan.scheme)}


def about(engine: str, scheme: str) -> dict[str, Any]:
    """The `engine` of a description: name, version and what else pins an answer's bits."""
    module = engines.module(engine)
    if engine in ("openvino", "torch"):
        return dict(module.about("bfloat16" if scheme == "bfloat16" else "float32"))
    return dict(module.about())


def code() -> dict[str, Path]:
    """The code that answers, by its place in a bundle: `predict.py` on top, what it imports below `serving/`."""
    top = Path(predict.__file__).resolve()
    root = top.parents[2]
    below = [file for part in ("bundle", "engines") for file in sorted((root / "serving" / part).glob("*.py"))]
    own = {str(file.relative_to(root)): file for file in [root / "serving" / "__init__.py", *below] if file != top}
    return {"predict.py": top, **own}


def add_golden(folder: Path, items: Sequence[Mapping[str, Any]]) -> int:
    """Ask a described bundle `items` one by one and write their answers beside it; how many fitted (count)."""
    model = predict.load(folder)
    answers = [model.predict([item])[0] for item in items]
    count = len(items)
    while len(content := golden.written(items[:count], answers[:count])) > GOLDEN_BYTES_MAX and count > 1:
        count -= 1
    (folder / golden.FILE).write_bytes(content)
    return count


def add_mobile(folder: Path) -> None:
    """Write `mobile/`: each graph in ONNX Runtime's own format and the list of operators that a build for it needs.

    The tool optimizes while it writes, by one step that our sessions leave out (`engines.onnxruntime.SLOWER`): logits
    differ from the `.onnx` file's by rounding.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    with tempfile.TemporaryDirectory() as aside:
        for graph in folder.glob("*.onnx"):
            shutil.copyfile(graph, Path(aside) / graph.name)
        out = Path(aside) / MOBILE
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", ResourceWarning)  # the tool leaves the files that it read open
            convert_onnx_models_to_ort(Path(aside), output_dir=out, optimization_styles=[OptimizationStyle.Fixed])
            gc.collect()
        shutil.copytree(out, folder / MOBILE)


def describe(folder: Path, spec: Mapping[str, Any], recipe: Recipe, lineage: Mapping[str, Any] | None = None) -> None:
    """Write `bundle.json` (and `bundle.sig` where the recipe signs): the description, and every file's checksum.

    `spec` names task, scheme and engine; `lineage` what it was made from. Files that the recipe encrypts are encrypted
    now, once: describing them again leaves them as they are.
    """
    before = folder / files.DESCRIPTION
    known = files.described(before.read_bytes())["files"] if before.is_file() else {}
    section = recipe.export
    entries = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.relative_to(folder).parts[0] in (*files.NESTED, files.DESCRIPTION, files.SIGNATURE):
            continue
        closed = section.encrypt and not name.endswith(".py")
        if closed and not (name in known and known[name]["encrypted"]):
            path.write_bytes(seal.closed(path.read_bytes(), name, seal.key_of(os.environ)))
        entries[name] = {"sha256": file_digest(path), "bytes": path.stat().st_size, "encrypted": closed}
    own = {"threads": section.threads, "confidence_min": recipe.serving.confidence_min}
    whole = {**spec, **own, **({"lineage": dict(lineage)} if lineage else {}), "files": entries}
    content = files.written(whole)
    (folder / files.DESCRIPTION).write_bytes(content)
    if section.sign:
        (folder / files.SIGNATURE).write_bytes(seal.signature(content, seal.signing_key_of(os.environ)))


def engine_bytes(folder: Path) -> int:
    """Size of a bundle's graphs (bytes)."""
    endings = {engines.module(name).FILE for name in engines.ENGINES}
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in endings)
