"""Cost of a real bundle: a process of its own, what small devices say, and engines side by side."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from cluster.recipe.measures import EdgeProfile
from cluster.store import Artifact, Store
from jobs import tasks
from jobs.measure import alone, cost, edge, exam
from jobs.packing import mobile
from serving.bundle import files, predict

Exported = tuple[Recipe, Store, Artifact]
MB = 1_000_000


@pytest.fixture(scope="module")
def items(exported: Exported) -> list[Any]:
    return list(exam.of(tasks.of(exported[0]).requests("test"), 8, 0).items)


@pytest.fixture(scope="module")
def measured(exported: Exported, items: list[Any]) -> dict[str, Any]:
    return cost.measure(exported[2].path(), items, {"teacher": {"p50": 1.0, "p95": 2.0, "p99": 3.0}}, {})


def test_every_engine_of_the_bundle_stands_in_the_table_with_the_exams_latency_where_there_is_one(
    measured: dict[str, Any],
) -> None:
    engines = measured["engines"]
    assert set(engines) == {"student_int8", "student", "teacher"}
    assert engines["teacher"]["latency_ms"] == {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    assert set(engines["student"]["latency_ms"]) == {"p50", "p95", "p99"}
    assert all(one["engine"].startswith("onnxruntime 1.") for one in engines.values())


def test_a_fresh_process_holds_python_its_libraries_and_the_model(measured: dict[str, Any]) -> None:
    for one in measured["engines"].values():
        assert 20 * MB < one["rss_runtime_bytes"] < one["rss_peak_bytes"] < 300 * MB
        assert one["load_ms"] > 0 and one["cpu_ms"] > 0 and one["requests_per_s"] > 0 and one["cpu_share"] < 2.5


def test_quantizing_changes_bytes_and_not_operations_and_the_teacher_costs_more(measured: dict[str, Any]) -> None:
    engines = measured["engines"]
    assert engines["student_int8"]["flops_per_request"] == engines["student"]["flops_per_request"]
    assert engines["teacher"]["flops_per_request"] > engines["student"]["flops_per_request"] > 1e5
    assert engines["student_int8"]["file_bytes"] < engines["student"]["file_bytes"]
    assert 0 < engines["student_int8"]["activation_peak_bytes"] < 5 * MB


def test_a_device_says_whether_the_bundle_fits_and_every_reason_why_not(exported: Exported, items: list[Any]) -> None:
    bundle = exported[2].path()
    devices = {
        "board": EdgeProfile(cpus=1, memory_bytes=400 * MB, file_bytes=400 * MB),
        "watch": EdgeProfile(cpus=1, memory_bytes=30 * MB, file_bytes=1000),
        "mcu": EdgeProfile(cpus=1, memory_bytes=1000, file_bytes=400 * MB, process=False),
    }
    board, watch, mcu = edge.measure(devices, bundle, items[:4], 200_000, 50_000)
    assert board["fits"] and board["why"] == [] and board["emulated"] and board["latency_ms"]["p50"] > 0
    assert board["model_memory_bytes"] < board["rss_peak_bytes"] < 400 * MB
    assert not watch["fits"] and len(watch["why"]) == 2
    assert "engine file" in watch["why"][0] and "limit of 30.00 MB" in watch["why"][1]
    assert (
        mcu["how"] == "counted"
        and mcu["latency_ms"] is None
        and mcu["why"] == ["activations took 0.05 MB, 0.00 MB may be used"]
    )


def test_a_phone_runs_and_weighs_the_mobile_format_and_other_devices_do_not(
    exported: Exported, items: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, carried = mobile.ported, tmp_path / "phone"

    def kept(bundle: Path, target: Path) -> bool:  # now and then another conversion of the same file has 8 bytes more
        done = port(bundle, target)
        shutil.copytree(target, carried)
        return done

    monkeypatch.setattr(mobile, "ported", kept)
    bundle = exported[2].path()
    before = sorted(path.name for path in bundle.rglob("*"))
    devices = {
        "phone": EdgeProfile(cpus=1, memory_bytes=400 * MB, file_bytes=400 * MB, mobile=True),
        "board": EdgeProfile(cpus=1, memory_bytes=400 * MB, file_bytes=400 * MB),
    }
    phone, board = edge.measure(devices, bundle, items[:4], 200_000, 50_000)
    assert phone["mobile_format"] and phone["fits"] and phone["latency_ms"]["p50"] > 0
    assert not board["mobile_format"] and board["file_bytes"] == 200_000
    assert sorted(path.name for path in bundle.rglob("*")) == before
    graphs = list(carried.glob("*.onnx"))
    assert graphs and all(path.read_bytes()[4:8] == b"ORTM" for path in graphs)
    assert phone["file_bytes"] == sum(path.stat().st_size for path in graphs)
    own, theirs = (predict.load(folder).predict(items[:4]) for folder in (bundle, carried))
    assert [one.text for one in own] == [one.text for one in theirs]
    assert edge.PROFILES["phone-low"].mobile and not edge.PROFILES["rpi4"].mobile


def test_an_encrypted_bundle_is_not_ported(exported: Exported, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported[2].path(), bundle)
    spec = json.loads((bundle / "bundle.json").read_text())
    for entry in spec["files"].values():
        entry["encrypted"] = True
    (bundle / "bundle.json").write_bytes(files.written(spec))
    assert not mobile.ported(bundle, tmp_path / "phone")


def test_devices_are_known_by_name_and_own_ones_come_first() -> None:
    own = EdgeProfile(cpus=1, memory_bytes=1, file_bytes=1)
    assert edge.profiles(["rpi4", "mine"], {"mine": own, "rpi4": own}) == {"rpi4": own, "mine": own}
    with pytest.raises(RecipeError, match=r"(?s)unknown device.*toaster.*jetson-nano"):
        edge.profiles(["toaster"], {})


def test_a_bundle_that_cannot_be_opened_ends_with_what_it_said(
    exported: Exported, items: list[Any], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(exported[2].path(), broken)
    (broken / "decoder.onnx").write_bytes(b"\0" + (broken / "decoder.onnx").read_bytes()[1:])
    with pytest.raises(alone.Ended, match=r"exit code 1: .*decoder\.onnx"):
        alone.answer(broken, broken, items)
