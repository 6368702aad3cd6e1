"""Turn the trained student into the bundle that is served: float32 ONNX, then INT8, checked against torch on real rows.

The bundle folder answers by itself (`python predict.py`). Below it lie two more bundles for measuring on the same
engine and threads: `float32/` (the student before INT8) and `teacher/`.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.canonical import file_digest
from cluster.errors import RecipeError, StepFailed
from cluster.recipe import Recipe
from jobs import distill, fit, tasks
from jobs.data.items import COLUMNS, item_of
from jobs.measure import deferral
from jobs.quantize import SCHEMES, static
from jobs.quantize.invariance import batch_invariant
from jobs.step import Step, Work
from serving import teachers
from serving.bundle import answer, image_classes, pictures, predict, texts

STATIC, CALIBRATION_ROWS = "static", 512
ROWS = 128  # validation rows that the exported graphs are checked on
TEXT_ROWS = 16  # of a language model: every token of a row is compared, over the whole vocabulary
DIFFERENCE_MAX = 1e-4  # float32 ONNX against torch, per unit of the largest logit; correct looks like 4e-6 to 8e-6
ROWS_OFF_MAX = 0.02  # a router at a tie may flip on a last bit, and that row's logits jump


def check(recipe: Recipe) -> None:
    """Refuse a scheme that the task's graphs do not take, before Ray starts. Raises RecipeError."""
    deferral.check(recipe)
    if recipe.export.scheme == STATIC and recipe.task != "image_classification":
        what = f"export.scheme: static is for convolutions, not for {recipe.task}"
        raise RecipeError(what, got=STATIC, expected=", ".join(SCHEMES))


def body(work: Work) -> None:
    """Write the bundle, `float32/` and (of a teacher whose network is here) `teacher/`.

    Raises StepFailed when a graph does not do what torch does.
    """
    recipe, out = work.recipe, work.draft.path
    count = TEXT_ROWS if recipe.task == "text_generation" else ROWS
    items = check_items(tasks.of(recipe).requests("validation").select([*COLUMNS]).to_pylist(), count)
    differences = {}
    for name, kind in (("float32", "student"), ("teacher", "teacher")):
        model = work.parents[kind].path() / "hf"
        if teachers.elsewhere(model):
            continue
        spec = export(model, out / name, recipe.export.opset) | {"scheme": "float32", "batch_invariant": None}
        describe(out / name, spec, recipe)
        differences[kind] = difference(model, out / name, items)
    started = time.perf_counter()
    quantize(out / "float32", out, recipe)
    spec = json.loads((out / "float32" / "bundle.json").read_text()) | {"scheme": recipe.export.scheme}
    describe(out, spec, recipe)
    invariant = batch_invariant(predict.load(out), items)
    spec |= deferral.thresholds(recipe, predict.load(out), work.parents["teacher"].path() / "hf")
    describe(out, spec | {"batch_invariant": invariant}, recipe)
    quantized, plain = predict.load(out).predict(items), predict.load(out / "float32").predict(items)
    work.draft.note(
        scheme=recipe.export.scheme, batch_invariant=invariant, logit_difference=differences,
        bytes=engine_bytes(out), bytes_float32=engine_bytes(out / "float32"),
        quantize_seconds=round(time.perf_counter() - started, 2),
        same_answers_after_int8=float(np.mean([a.text == b.text for a, b in zip(quantized, plain, strict=True)])),
    )  # fmt: skip


def check_items(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` requests as `predict` takes them, spread evenly over the rows."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))
    return [item_of(rows[row]) for row in chosen]


def export(model: Path, folder: Path, opset: int) -> dict[str, Any]:
    """Write a model folder's float32 graphs and tokenizer into `folder` (made); returns what describes them so far."""
    folder.mkdir(parents=True)
    spec: dict[str, Any] = json.loads((model / "task.json").read_text())
    _copy_tokenizer(model, folder)
    return spec | GRAPHS[spec["task"]](model, folder, spec, opset)


def _visual_qa(model: Path, folder: Path, spec: Mapping[str, Any], opset: int) -> dict[str, int]:
    from serving.models import omni, omni_export

    return omni_export.export(omni.load(model), folder, pictures.Media.of(spec), opset)


def _text_classification(model: Path, folder: Path, spec: Mapping[str, Any], opset: int) -> dict[str, int]:
    from serving.models import encoder

    encoder.export(encoder.load(model), folder, opset)
    return {}


def _text_generation(model: Path, folder: Path, spec: Mapping[str, Any], opset: int) -> dict[str, int]:
    from serving.models import decoder, decoder_graph

    return decoder_graph.export(decoder.load(model), folder, opset)


def _image_classification(model: Path, folder: Path, spec: Mapping[str, Any], opset: int) -> dict[str, int]:
    from serving.models import image_nets

    image_nets.export(image_nets.load(model), folder, opset)
    return {}


def _retrieval(model: Path, folder: Path, spec: Mapping[str, Any], opset: int) -> dict[str, int]:
    from serving.models import dual_encoder

    tokenizer = answer.read_tokenizer(model)
    entries = [texts.encode_text({"text": entry}, tokenizer, spec) for entry in spec["entries"]]
    dual_encoder.export(dual_encoder.load(model), folder, entries, opset)
    return {}


GRAPHS = {
    "retrieval": _retrieval,
    "visual_qa": _visual_qa,
    "text_generation": _text_generation,
    "text_classification": _text_classification,
    "image_classification": _image_classification,
}


def _copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer, where the task has one."""
    if (source / "tokenizer.json").is_file():
        shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


def quantize(source: Path, target: Path, recipe: Recipe) -> None:
    """INT8 graphs of a float32 bundle, with its tokenizer and the code that answers."""
    for graph in sorted(source.glob("*.onnx")):
        if recipe.export.scheme == STATIC:
            static.quantize(graph, target / graph.name, calibration(recipe, source))
        else:
            SCHEMES[recipe.export.scheme](graph, target / graph.name, recipe.export.block_size)
    _copy_tokenizer(source, target)
    for table in sorted(source.glob("*.npy")):  # vectors of what a retriever ranks: the float student's
        shutil.copyfile(table, target / table.name)
    for name, file in code().items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)


def calibration(recipe: Recipe, bundle: Path) -> list[dict[str, np.ndarray]]:
    """Feeds of a float32 bundle's graph for scheme `static`: training pictures and views, spread over the set."""
    rows = tasks.of(recipe).requests("train").select([*COLUMNS]).to_pylist()
    frame = image_classes.Frame(**json.loads((bundle / "bundle.json").read_text())["picture"])
    items = check_items(rows, CALIBRATION_ROWS)
    return [{"pixels": image_classes.values(image_classes.picture_of(item, frame)[None])} for item in items]


def code() -> dict[str, Path]:
    """The code that answers, by its place in a bundle: `predict.py` on top, what it imports below `serving/bundle/`."""
    top = Path(predict.__file__).resolve()
    below = [file for file in sorted(top.parent.glob("*.py")) if file != top]
    root = top.parents[2]
    files = {str(file.relative_to(root)): file for file in [top.parents[1] / "__init__.py", *below]}
    return {"predict.py": top, **files}


def describe(folder: Path, spec: Mapping[str, Any], recipe: Recipe) -> None:
    """Write `bundle.json`: the description, what it was measured with, and the checksum of every file beside it."""
    import onnxruntime

    beside = [path.name for path in folder.iterdir() if path.is_file() and path.name != "bundle.json"]
    names = sorted([*beside, *(name for name in code() if "/" in name and (folder / name).is_file())])
    engine = {"onnxruntime": onnxruntime.__version__, "provider": "CPUExecutionProvider", "graph_optimization": "all"}
    files = {name: {"sha256": file_digest(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    own = {"threads": recipe.export.threads, "confidence_min": recipe.serving.confidence_min, "engine": engine}
    (folder / "bundle.json").write_text(json.dumps({**spec, **own, "files": files}, indent=1))


def difference(model: Path, bundle: Path, items: Sequence[Mapping[str, Any]]) -> float:
    """Largest |logit| difference between torch and the bundle over rows that agree (logit units).

    Raises StepFailed when more than `ROWS_OFF_MAX` of the rows differ by more than `DIFFERENCE_MAX`.
    """
    from serving.teachers import transformers

    answerer: Any = transformers.load(model)
    replies = answerer.complete([answerer.prompt(item) for item in items])
    pairs = [(reply.logits, own) for reply, own in zip(replies, predict.load(bundle).logits(items), strict=True)]
    del answerer
    gc.collect()
    limit = DIFFERENCE_MAX * max(1.0, *(float(np.abs(torch_AV).max()) for torch_AV, _ in pairs))
    apart = np.array([first_apart(torch_AV, onnx_AV) for torch_AV, onnx_AV in pairs])
    off = float((apart > limit).mean())
    if off > ROWS_OFF_MAX:
        what = f"{bundle.name}: {off:.0%} of {len(items)} rows differ from torch by more than {limit:.1g}"
        hint = "the ONNX graph does not compute what the model does"
        raise StepFailed("export", f"{what}, at most by {apart.max():.1g}", hint=hint)
    return float(apart[apart <= limit].max())


def first_apart(torch_AV: np.ndarray, onnx_AV: np.ndarray) -> float:
    """Largest difference of two answers' logits up to the first position where they choose another token."""
    both = min(len(torch_AV), len(onnx_AV))
    same = torch_AV[:both].argmax(-1) == onnx_AV[:both].argmax(-1)
    until = both if same.all() else int(same.argmin()) + 1
    return float(np.abs(torch_AV[:until] - onnx_AV[:until]).max())


def engine_bytes(folder: Path) -> int:
    """Size of a bundle's graphs (bytes)."""
    return sum(path.stat().st_size for path in folder.glob("*.onnx"))


def _inputs(recipe: Recipe) -> dict[str, Any]:
    # The code is part of the bundle: when it changes, a bundle with the old one is no longer what is served.
    target = recipe.serving.agreement_min
    return {
        **({} if target is None else {"agreement_min": target}),
        "confidence_min": recipe.serving.confidence_min,
        "code": {name: file_digest(file) for name, file in code().items()},
    }


STEP = Step("export", "bundle", 1, ("export",), (distill.STEP, fit.STEP), body, _inputs)
