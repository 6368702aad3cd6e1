"""No byte of a bundle may change: flipped, cut, swapped, missing, added, unsigned; it is refused, and what is named."""

import importlib.util
import json
import marshal
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs.packing import writing
from serving.bundle import files, predict, seal
from serving.bundle.answer import BundleError

KEYS = {name: os.urandom(32).hex() for name in (seal.PRIVATE, seal.SECRET)}
PUBLIC = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(KEYS[seal.PRIVATE])).public_key().public_bytes_raw().hex()
ITEM = {"text": "is it even ?", "images": []}


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """The bundle in a folder that a test may damage."""
    shutil.copytree(bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("float32", "teacher"))
    return tmp_path / "bundle"


@pytest.fixture
def sealed(
    copied: Path, exported: tuple[Recipe, Store, Artifact], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """The copy, signed or encrypted with KEYS."""

    def make(**options: bool) -> Path:
        for name, key in KEYS.items():
            monkeypatch.setenv(name, key)
        recipe = exported[0]
        section = recipe.export.model_copy(update=options)
        spec = predict.verify(copied)
        writing.describe(copied, spec, recipe.model_copy(update={"export": section}))
        for name in KEYS:
            monkeypatch.delenv(name)
        return copied

    return make


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def everything(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refused(folder: Path, environment: dict[str, str] | None = None) -> str:
    """The one line that a bundle is refused with."""
    with pytest.raises(BundleError) as caught:
        files.verified(folder, environment or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_flipped_bit_in_any_file_is_refused_with_the_files_name(sealed: Callable[..., Path]) -> None:
    folder, rng = sealed(sign=True), np.random.default_rng(0)
    paths = everything(folder)
    assert {"bundle.json", "bundle.sig", "decoder.onnx", "golden.json", "predict.py"} <= {path.name for path in paths}
    for path in [path for path in paths if path.stat().st_size]:
        for place in {0, path.stat().st_size - 1, int(rng.integers(path.stat().st_size))}:
            flip(path, place)
            assert refused(folder).startswith(path.relative_to(folder).as_posix())
            flip(path, place)
    files.verified(folder, {})


@pytest.mark.parametrize("name", ["bundle.json", "bundle.sig"])
def test_no_byte_of_the_description_or_the_signature_can_change(name: str, sealed: Callable[..., Path]) -> None:
    folder = sealed(sign=True)
    size, rng = (folder / name).stat().st_size, np.random.default_rng(1)
    for place in rng.permutation(size)[:150].tolist():
        for bit in (1, 32):  # 32 makes another letter case: still JSON, still hexadecimal
            data = bytearray((folder / name).read_bytes())
            data[place] ^= bit
            (folder / name).write_bytes(data)
            assert refused(folder).startswith(name)
            data[place] ^= bit
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("length", [0, 10, 5000])
def test_a_cut_file_is_refused(length: int, copied: Path) -> None:
    (copied / "decoder.onnx").write_bytes((copied / "decoder.onnx").read_bytes()[:length])
    assert refused(copied).startswith("decoder.onnx: sha256")


def test_swapped_missing_added_and_linked_files_are_named(copied: Path) -> None:
    vision, decoder = (copied / name for name in ("vision.onnx", "decoder.onnx"))
    one, other = vision.read_bytes(), decoder.read_bytes()
    vision.write_bytes(other)
    decoder.write_bytes(one)
    assert refused(copied).startswith("decoder.onnx: sha256")
    vision.write_bytes(one)
    decoder.unlink()
    assert refused(copied).startswith("decoder.onnx: missing")
    decoder.symlink_to(vision)
    assert refused(copied).startswith("decoder.onnx: missing (no plain file)")
    decoder.unlink()
    decoder.write_bytes(other)
    (copied / "serving" / "engines" / "more.py").write_text("raise SystemExit")
    assert refused(copied).startswith("serving/engines/more.py: not listed")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"digest": None}, "digest: missing"),
        ({"threads": "two"}, "threads: missing or no int"),
        ({"task": None}, "task: missing"),
        ({"files": {"../x": {"sha256": "", "bytes": 0, "encrypted": False}}}, "no place inside a bundle"),
        ({"files": {"x": 3}}, "expected sha256"),
        ({"task": "cooking"}, "task: got 'cooking'"),
        ({"engine": {"name": "abacus"}}, "engine: got 'abacus'"),
        ({"layers": None}, "layers: missing"),
    ],
)
def test_a_description_that_is_whole_but_wrong_is_refused_with_the_field(
    change: dict[str, object], says: str, copied: Path
) -> None:
    spec = json.loads((copied / "bundle.json").read_text()) | change
    spec = {name: value for name, value in spec.items() if value is not None}
    content = json.dumps(spec, indent=1).encode() if "digest" in change else files.written(spec)
    (copied / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=says):
        predict.load(copied).predict([ITEM])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 100_000])
def test_what_is_no_description_is_refused(content: bytes, copied: Path) -> None:
    (copied / "bundle.json").write_bytes(content)
    assert refused(copied).startswith("bundle.json: ")


@pytest.mark.parametrize("name", ["decoder.onnx", "tokenizer.json"])
def test_a_file_that_is_listed_but_cannot_be_opened_is_named(
    name: str, copied: Path, exported: tuple[Recipe, Store, Artifact]
) -> None:
    spec = predict.verify(copied)
    (copied / name).write_bytes(b"not what it says")
    writing.describe(copied, spec, exported[0])
    with pytest.raises(BundleError, match=f"^{name}: "):
        predict.load(copied)


def test_a_public_key_asks_for_its_owners_signature(sealed: Callable[..., Path], copied: Path) -> None:
    assert refused(copied, {seal.PUBLIC: PUBLIC}).startswith("bundle.sig: missing")
    folder = sealed(sign=True)
    assert files.verified(folder, {seal.PUBLIC: PUBLIC}).spec["task"] == "visual_qa"
    stranger = Ed25519PrivateKey.generate()
    other = stranger.public_key().public_bytes_raw().hex()
    assert "another key signed it" in refused(folder, {seal.PUBLIC: other})
    assert refused(folder, {seal.PUBLIC: "12"}).startswith(f"{seal.PUBLIC}: got 2 characters")
    assert refused(folder, {seal.PUBLIC: ""}).startswith(f"{seal.PUBLIC}: not set")
    spec = json.loads((folder / "bundle.json").read_text()) | {"confidence_min": 0.9}
    (folder / "bundle.json").write_bytes(files.written(spec))  # whole again, but not what was signed
    assert "not what was signed" in refused(folder, {seal.PUBLIC: PUBLIC})
    signed = seal.signature((folder / "bundle.json").read_bytes(), stranger.private_bytes_raw())
    (folder / "bundle.sig").write_bytes(signed)
    assert "another key signed it" in refused(folder, {seal.PUBLIC: PUBLIC})


def test_an_encrypted_bundle_answers_the_same_with_its_key_alone(
    bundle: Path, sealed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sealed(encrypt=True)
    plain = (bundle / "decoder.onnx").read_bytes()
    assert (folder / "decoder.onnx").read_bytes() != plain
    assert b"vocab" not in (folder / "tokenizer.json").read_bytes()
    assert refused(folder).startswith(f"{seal.SECRET}: not set")
    monkeypatch.setenv(seal.SECRET, KEYS[seal.SECRET])
    assert predict.load(folder).predict([ITEM]) == predict.load(bundle).predict([ITEM])
    assert predict.self_test(folder)["passed"]
    monkeypatch.setenv(seal.SECRET, "00" * 32)
    with pytest.raises(BundleError, match="cannot be decrypted"):
        predict.load(folder)


def test_encryption_is_bound_to_name_and_key_and_gives_the_same_bytes_again() -> None:
    key = bytes(range(32))
    coded = seal.closed(b"weights", "model.onnx", key)
    assert coded == seal.closed(b"weights", "model.onnx", key)
    assert coded[:12] != seal.closed(b"weighty", "model.onnx", key)[:12]
    assert seal.opened(coded, "model.onnx", key) == b"weights"
    for data, name, other in ((coded, "other.onnx", key), (coded[:-1], "model.onnx", key), (b"", "model.onnx", key)):
        with pytest.raises(BundleError, match="cannot be decrypted"):
            seal.opened(data, name, other)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, folder / "predict.py", *arguments]
    return subprocess.run(command, cwd=folder.parent, env={}, capture_output=True, text=True, check=False)


def test_compiled_code_that_lies_in_a_bundle_is_not_run(copied: Path) -> None:
    target = copied / "serving" / "bundle" / "answer.py"
    stat = target.stat()
    code = marshal.dumps(compile("raise SystemExit('planted')", str(target), "exec"))
    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, int(stat.st_mtime), stat.st_size)
    planted = Path(importlib.util.cache_from_source(str(target)))
    planted.parent.mkdir()
    planted.write_bytes(header + code)
    ran = run(copied, "--text", "is it even ?")
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("name", ["serving/bundle/answer.py", "serving/engines/onnxruntime.py", "decoder.onnx"])
def test_a_damaged_bundle_ends_with_one_line_and_no_traceback(name: str, copied: Path) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[:-40] + b"(" * 40)
    ran = run(copied, "--text", "a")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("error: ")
    assert name in ran.stderr


def one_line(ran: "subprocess.CompletedProcess[str]") -> str:
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith("error: ")
    return ran.stderr


def test_a_description_that_is_whole_but_of_other_files_ends_with_one_line_too(copied: Path) -> None:
    spec = json.loads((copied / "bundle.json").read_text())
    for wrong in ({"kv_heads": 10**4}, {"max_new_tokens": "many"}):
        (copied / "bundle.json").write_bytes(files.written(spec | wrong))
        assert "bundle.json does not describe these files" in one_line(run(copied, "--self-test"))


def test_a_text_that_is_no_utf_8_is_named(copied: Path) -> None:
    command = [os.fsencode(sys.executable), os.fsencode(copied / "predict.py"), b"--text", b"even \xff"]
    ran = subprocess.run(command, cwd=copied.parent, env={}, capture_output=True, text=True, check=False)
    assert "cannot be written as UTF-8" in one_line(ran)


def test_an_interpreter_without_what_a_bundle_needs_is_told_so(copied: Path) -> None:
    command = [sys.executable, "-S", "-E", copied / "predict.py", "--self-test"]  # -S: no site-packages
    ran = subprocess.run(command, cwd=copied.parent, env={}, capture_output=True, text=True, check=False)
    assert "numpy is not installed" in one_line(ran)


def test_a_replaced_predict_py_is_named_by_one_that_is_trusted(copied: Path, bundle: Path) -> None:
    whole = run(bundle, "--verify", "--bundle", str(copied))
    assert whole.returncode == 0, whole.stderr
    told = json.loads(whole.stdout)
    assert told["verified"] and told["signature"] == "none" and told["signed_by"] is None
    assert told["files"] == len(json.loads((copied / "bundle.json").read_text())["files"])
    (copied / "predict.py").write_text("print('{\"verified\": true}')\n")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "serving.bundle.predict", "--verify", "--bundle", copied]
    ran = subprocess.run(command, cwd=root, env={}, capture_output=True, text=True, check=False)
    assert "predict.py: sha256" in one_line(ran)


def test_the_self_test_asks_the_golden_samples_inside_the_bundle(
    copied: Path, exported: tuple[Recipe, Store, Artifact]
) -> None:
    for _ in range(2):  # running it leaves nothing behind
        ran = run(copied, "--self-test")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == {
            "passed": True, "samples": 16, "same_text": 16, "same_bits": 16, "differs": []
        }  # fmt: skip
    rows = json.loads((copied / "golden.json").read_text())
    rows[3]["text"] = "something else"
    (copied / "golden.json").write_text(json.dumps(rows))
    writing.describe(copied, json.loads((copied / "bundle.json").read_text()), exported[0])
    ran = run(copied, "--self-test")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["same_text"] == 15
    assert json.loads(ran.stdout)["differs"][0]["expected"][0] == "something else"
