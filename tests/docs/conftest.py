"""Pages as programs: the fenced blocks of a page, a copy of the tree to try them in, and one shell that runs them."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(?P<kind>\w*)[ ]?(?P<about>[^\n]*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
MARK = "@@@ block"
FIGURE = re.compile(r"[0-9a-f]{16}|\d[\d,.]*")


@dataclass(frozen=True)
class Block:
    """A fenced block: `kind` is its language, `about` what stands behind that (the file it is)."""

    kind: str
    about: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [Block(found["kind"], found["about"].strip(), found["text"]) for found in FENCE.finditer(page.read_text())]


def write(block: Block, tree: Path) -> None:
    """A block that is a file becomes that file; one that is a change of a file is made there, once."""
    target = tree / block.about
    if block.kind != "diff":
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text)
        return
    lines = block.text.splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    text = target.read_text()
    assert text.count(before) == 1, f"{block.about} has not once:\n{before}"
    target.write_text(text.replace(before, after))


@pytest.fixture
def blocks() -> Callable[[str], list[Block]]:
    """The blocks of a page of docs/."""
    return lambda name: blocks_of(ROOT / "docs" / name)


@pytest.fixture
def written() -> Callable[[Block, Path], None]:
    return write


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a clone of this tree would hold, as it is now, with this environment as its `.venv`."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    tree = tmp_path / "raydistill"
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    (tree / ".venv").symlink_to(ROOT / ".venv")
    return tree


@pytest.fixture
def shell() -> Callable[..., list[str]]:
    """Run blocks one after the other in one bash, from a folder; what each of them wrote to stdout.

    Fails with the end of stderr when one of them ends with another code than 0.
    """

    def run(blocks: Sequence[str], folder: Path, timeout_s: float) -> list[str]:
        script = "set -euo pipefail\n" + "".join(f"echo '{MARK}'\n{block}" for block in blocks)
        environment = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "COLUMNS": "160"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout.split(f"{MARK}\n")[1:]

    return run


@pytest.fixture
def said() -> Callable[[str, str], list[str]]:
    """The lines that a page shows and that were not said, in this order; figures and ids may be others, `...` is
    anything."""

    def missing(shown: str, output: str) -> list[str]:
        heard, left = [_plain(line) for line in output.splitlines()], []
        for line in filter(str.strip, shown.splitlines()):
            wanted = ".*".join(re.escape(part.strip()) for part in _plain(line).split("..."))
            place = next((at for at, one in enumerate(heard) if re.fullmatch(wanted, one)), None)
            if place is None:
                left.append(line)
            else:
                heard = heard[place + 1 :]
        return left

    return missing


def _plain(line: str) -> str:
    return " ".join(FIGURE.sub("#", line).split())
