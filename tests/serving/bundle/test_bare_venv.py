"""A bundle answers where there is Python with its engine, numpy, tokenizers and Pillow: the same bits as served."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.students.student import Student

NEEDED = ("numpy", "onnxruntime", "tokenizers", "pillow")
FORBIDDEN = ("torch", "ray", "transformers", "pydantic", "pyarrow", "cryptography")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh virtual environment with NEEDED at this environment's versions."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in NEEDED]
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins]
    if (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no package index here: {done.stderr[-200:]}")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_bundle_in_a_bare_environment_answers_the_served_bits(
    bare: Path, bundle: Path, questions: list[Any], tmp_path: Path
) -> None:
    copied = tmp_path / "bundle"
    shutil.copytree(bundle, copied, ignore=shutil.ignore_patterns("float32", "teacher"))
    missing = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) for name in sys.argv[1:]))"
    subprocess.run([bare, "-c", missing, *FORBIDDEN], check=True)
    student = Student(bundle)
    for number, question in enumerate(questions[:3]):
        picture = tmp_path / f"{number}.png"
        picture.write_bytes(question.item["images"][0])
        command = [bare, copied / "predict.py", "--text", question.item["text"], "--image", picture]
        ran = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
        served = asyncio.run(student.answer(question.item, 60_000.0))
        said = json.loads(ran.stdout)
        assert (said["text"], said["confidence"].hex()) == (served.text, served.confidence.hex())
    student.close()
    ran = subprocess.run(
        [bare, copied / "predict.py", "--self-test"], env={}, capture_output=True, text=True, check=True
    )
    told = json.loads(ran.stdout)
    assert (told["passed"], told["same_bits"]) == (True, told["samples"])
