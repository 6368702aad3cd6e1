"""What README and docs say is what the code does: generated parts are fresh, and every command they name exists."""

import re
from pathlib import Path

import pytest

from cluster.__main__ import app as cluster_app
from jobs import commands, pipeline
from jobs.__main__ import app as jobs_app
from jobs.after import reference
from serving.__main__ import app as serving_app
from tuning.__main__ import app as tuning_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
APPS = {"cluster": cluster_app, "jobs": jobs_app, "serving": serving_app, "tuning": tuning_app}
COMMANDS = {module: reference.applied(app) for module, app in APPS.items()}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def test_what_is_generated_is_fresh() -> None:
    for path, text in reference.documents().items():
        assert path.read_text() == text, "run `make docs`"


@each_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"`?\bmake ([a-z]+(?:-[a-z]+)*)\b(?=[`\s]|$)", "\n".join(code(page))))
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


@each_page
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    for text in code(page):
        for module, rest in re.findall(r"python -m (\w+) ([\w-].*)", text):
            named = [command for name, command in COMMANDS[module].items() if f"{rest} ".startswith(f"{name} ")]
            assert named, text
            known = {name for option in named[0].params for name in option.opts}
            assert set(re.findall(r"--[\w-]+", rest)) <= known, text


@each_page
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_command_line_has_a_command_for_every_step() -> None:
    assert list(commands.VERBS) == list(pipeline.VERBS)
    assert set(commands.VERBS) <= set(COMMANDS["jobs"])


def test_every_target_is_told_by_make_help() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


def code(page: Path) -> list[str]:
    """The code of a page: blocks between fences line by line, and what stands between backticks."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for block in blocks for line in block.splitlines()] + inline
