"""TensorRT without a GPU: what it says where there is none, the shapes it asks for, and every name it uses held against
the vendor's own bindings."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving.bundle.answer import BundleError
from serving.bundle.files import Folder
from serving.engines import cuda_memory, open_graph, tensorrt

VERSION = "11.4.0.106"
# Every name of the bindings that the engine uses, by the class that has it.
USED = {
    "": ["Builder", "Logger", "MemoryPoolType", "OnnxParser", "Runtime", "TensorIOMode", "nptype"],
    "Logger": ["WARNING"],
    "MemoryPoolType": ["WORKSPACE"],
    "TensorIOMode": ["INPUT"],
    "Builder": ["create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"],
    "OnnxParser": ["parse", "get_error", "num_errors"],
    "INetworkDefinition": ["num_inputs", "get_input"],
    "ITensor": ["shape", "name"],
    "IBuilderConfig": [
        "set_memory_pool_limit", "builder_optimization_level", "create_timing_cache", "set_timing_cache",
        "get_timing_cache", "add_optimization_profile",
    ],
    "ITimingCache": ["serialize"],
    "IOptimizationProfile": ["set_shape"],
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
    ],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "get_tensor_shape", "execute_async_v3"],
}  # fmt: skip
GONE = {"BuilderFlag": ["INT8", "FP16"], "": ["IInt8EntropyCalibrator2"]}
LIBRARIES = ("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_plugin.so.11")
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip


def test_without_a_driver_it_says_so_and_a_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    if tensorrt.missing() is None:
        pytest.skip("there is a GPU here")
    assert any(word in str(tensorrt.missing()) for word in ("not installed", "driver", "GPU"))
    (tmp_path / "model.plan").write_bytes(b"an engine")
    with pytest.raises(BundleError, match=r"^model\.plan: engine tensorrt (is not installed|cannot open it)") as caught:
        open_graph(Folder(tmp_path), "model", {"engine": {"name": "tensorrt"}, "threads": 1})
    assert "\n" not in str(caught.value)


def test_memory_on_a_gpu_that_is_not_there_is_refused() -> None:
    if (lacks := cuda_memory.missing()) is None:
        pytest.skip("there is a GPU here")
    assert "NVIDIA" in lacks
    with pytest.raises((OSError, cuda_memory.CudaError)):
        cuda_memory.Memory()


def test_free_axes_get_a_range_and_fixed_ones_stay() -> None:
    assert tensorrt.shapes((-1, -1), 32, 512) == ((1, 1), (1, 32), (32, 512))
    assert tensorrt.shapes((-1, 3, 28, 28), 8, 512) == ((1, 3, 28, 28), (1, 3, 28, 28), (8, 3, 28, 28))
    assert tensorrt.shapes((-1, -1), 4, 16) == ((1, 1), (1, 16), (4, 16))


def test_every_name_listed_here_is_used_in_the_engine() -> None:
    tree = ast.parse(Path(tensorrt.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for names in USED.values() for name in names} <= used


@pytest.mark.slow
def test_every_name_is_in_the_vendors_bindings(tmp_path: Path) -> None:
    """The bindings alone are on the package index; they load over empty libraries, which is enough to read names."""
    wheel = f"tensorrt_cu13_bindings=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(tmp_path), wheel]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no package index here")
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path)
    source = tmp_path / "empty.c"
    source.write_text("".join(f"void *{name}() {{ return 0; }}\n" for name in SYMBOLS))
    for library in LIBRARIES:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / library, source], check=True)
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('tensorrt', sys.argv[2])\n"
        "trt = importlib.util.module_from_spec(spec); sys.modules['tensorrt'] = trt; spec.loader.exec_module(trt)\n"
        "has = lambda owner, name: hasattr(getattr(trt, owner) if owner else trt, name)\n"
        "asked = json.loads(sys.argv[1])\n"
        "print(json.dumps([f'{o}.{n}' for o, names in asked.items() for n in names if not has(o, n)]))\n"
    )
    asked = json.dumps({owner: [name for name in names if name != "nptype"] for owner, names in USED.items()})
    found = []
    binary, environment = tmp_path / "tensorrt_bindings" / "tensorrt.so", {"LD_LIBRARY_PATH": str(tmp_path)}
    for names in (asked, json.dumps(GONE)):
        command = [sys.executable, "-c", code, names, str(binary)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        found.append(json.loads(ran.stdout))
    assert found[0] == []
    assert found[1] == [f"{owner}.{name}" for owner, names in GONE.items() for name in names]
    # `nptype` is Python code of the package around the bindings.
    assert "def nptype" in (tmp_path / "tensorrt_bindings" / "__init__.py").read_text()
