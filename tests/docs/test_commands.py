"""Every command that the pages name is run by a test, or stands here with what it needs that a test has not."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.deploy import kuberay

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLLOWED = ("tutorial.md", "extending.md")  # their blocks are run as they stand, by the tests beside this one
OURS = re.compile(r"python -m (cluster|jobs|serving|tuning) (labels inspect|[a-z][\w-]*)")
TARGET = re.compile(r"^make ([a-z]+(?:-[a-z]+)*)(?=[`\s]|$)")

# Command -> the test that runs it, or what stands right behind its command line, and words of that test.
RUN: dict[str, tuple[str, str]] = {
    "cluster doctor": ("tests/cluster/test_local_cluster.py", '"doctor"'),
    "cluster down": ("tests/cluster/test_local_cluster.py", '"down"'),
    "cluster jobs": ("tests/cluster/test_local_cluster.py", '"jobs"'),
    "cluster logs": ("tests/cluster/test_local_cluster.py", '"logs"'),
    "cluster manifest": ("tests/docs/test_commands.py", "manifests_of_the_page"),
    "cluster resume": ("tests/cluster/test_local_cluster.py", '"resume"'),
    "cluster stop": ("tests/cluster/test_local_cluster.py", '"stop"'),
    "cluster submit": ("tests/cluster/test_local_cluster.py", '"submit"'),
    "cluster up": ("tests/cluster/test_local_cluster.py", '"up"'),
    "jobs curate": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs curate-audit": ("tests/docs/test_tutorial.py", "jobs curate-audit"),
    "jobs distill": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs evaluate": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs export": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs federate": ("tests/jobs/training/test_federation.py", '"federate"'),
    "jobs fit": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs generate": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs promote": ("tests/docs/test_tutorial.py", "ALONE"),
    "jobs reproduce": ("tests/jobs/after/test_commands.py", '"reproduce"'),
    "jobs resume": ("tests/jobs/after/test_commands.py", '"resume"'),
    "jobs schedule": ("tests/jobs/after/test_commands.py", '"schedule"'),
    "serving config": ("tests/serving/commands/test_commands.py", '"config"'),
    "serving key": ("tests/serving/commands/test_commands.py", '"key"'),
    "serving kill": ("tests/serving/deployment/test_live.py", 'live.serving("kill"'),
    "serving rollback": ("tests/serving/deployment/test_live.py", '"rollback"'),
    "tuning search": ("tests/tuning/test_search.py", '"search"'),
    "make check": (".ci/run", "make check"),
    "make test": (".ci/run", "make test"),
    "make test-slow": (".ci/run", "make test-slow"),
    "make run": (".ci/run", "make run"),
    "make docs": ("tests/test_readme.py", "reference.documents()"),
    "predict.py": ("tests/serving/bundle/test_bare_venv.py", "--self-test"),
}
# The start of a line in a block -> what it needs.
NOT_RUN = {
    "make bench": "an hour and more on a quiet machine; its results are docs/benchmarks.md",
    "make chaos": "root and half an hour; its results are in docs/benchmarks.md",
    "make clean": "it deletes what other tests use",
    "make help": "it prints the Makefile's comments; tests/test_readme.py compares them",
    "git clone": "a network, and the place where this repository lies",
    "cd raydistill": "the clone before it",
    "make .venv/ready": "a network; the first step of .ci/run",
    "ray up": "machines or a cloud",
    "ssh -L": "the machines of the launcher",
    "export RAYDISTILL_SERVING_URL=": "a service on a cluster; tests/serving/deployment/test_declared.py has one",
    "RAY_AUTH_TOKEN_PATH=": "the machines of the launcher; doctor itself is run on a local cluster",
    "docker build": "docker",
    "kubectl": "Kubernetes",
    "ps -ef": "a process to look at; a tool of the system",
    "grep -E": "a process to look at; a tool of the system",
    ".venv/bin/py-spy": "the right to trace another process (root)",
    "ray memory": "a running cluster; Ray's own command",
    "pip install memray": "a network; another project's tool",
}


def code(page: Path) -> Iterator[str]:
    """Lines of the blocks that are no output, figure, file or change of one, and what stands between backticks."""
    text = page.read_text()
    for kind, about, block in re.findall(r"^```(\w*)[ ]?([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind in ("", "sh", "console") and not about:
            yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def named(page: Path) -> set[str]:
    """Our commands on a page, as "module verb", "make target" and "predict.py"."""
    found: set[str] = set()
    for line in code(page):
        found |= {" ".join(match) for match in OURS.findall(line)}
        found |= {f"make {target}" for target in TARGET.findall(line)}
        found |= {"predict.py"} & set(line.split())
    return found


@pytest.fixture
def followed(blocks: Callable[[str], list[Any]]) -> set[str]:
    """The commands of the pages that are run block by block."""
    shell = "\n".join(block.text for name in FOLLOWED for block in blocks(name) if block.kind == "sh")
    return {" ".join(match) for match in OURS.findall(shell)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_of_ours_on_a_page_is_run_or_listed(page: Path, followed: set[str]) -> None:
    assert named(page) - followed - set(RUN) - set(NOT_RUN) == set()


def test_the_tests_that_are_said_to_run_a_command_name_it() -> None:
    for command, (file, words) in RUN.items():
        assert words in (ROOT / file).read_text(), command


def test_every_other_command_in_a_block_says_what_it_needs() -> None:
    """A block of commands has one of ours, or begins with one that is listed; the rest are figures and YAML."""
    unknown, used = [], set()
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines = [line for line in block.splitlines() if line and not line[0].isspace()]
            listed = [start for line in lines for start in NOT_RUN if line.startswith(start)]
            used |= set(listed)
            if kind == "console" or listed or (not kind and OURS.search(block)):
                ours = [line for line in lines if OURS.search(line) or TARGET.match(line) or line[0] in "#[│"]
                others = [line for line in lines if not line.startswith(tuple(NOT_RUN)) and line not in ours]
                unknown += [f"{page.name}: {line}" for line in others]
    assert unknown == []
    assert set(NOT_RUN) - used - {command for page in PAGES for command in named(page)} == set()


def test_the_manifests_of_the_page_are_written(checkout: Path) -> None:
    """The lines of clusters.md word by word, but for the shell's prompt."""
    lines = [line for line in code(ROOT / "docs" / "clusters.md") if line.startswith("python -m cluster manifest")]
    assert len(lines) >= 3
    key = {"name": "shop", "sha256": "0" * 64}  # the page's serve.yaml: `serving config` needs a promoted model first
    gateway = {"name": "gateway", "import_path": kuberay.GATEWAY, "args": {"plan": {"section": {}, "keys": [key]}}}
    (checkout / "serve.yaml").write_text(yaml.safe_dump({"applications": [gateway]}))
    for line in lines:
        words = [sys.executable, *line.split()[1:]]
        done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    assert (checkout / "Containerfile").is_file()
    launcher = yaml.safe_load((checkout / "deploy" / "digits.yaml").read_text())
    assert launcher["provider"]["type"] == "aws"  # the last of the two
