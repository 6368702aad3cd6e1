"""A command answers on stdout alone, says readably what went wrong, and ends with the right code, interrupted too."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jobs import progress
from jobs.progress import Progress
from jobs.terminal import say, whole

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., "subprocess.Popen[str]"]
RUN = """
import os, subprocess, sys, time
from cluster.errors import GateFailed, RecipeError, StepFailed
from jobs.terminal import execute

def command(terminal):
    {body}

sys.exit(execute(command, as_json={as_json}))
"""


def jobs(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "digit"], "did you mean digits?"),
        (["run", "digits", "--set", "fit.stages.0.epoch=3"], "did you mean fit.stages.0.epochs?"),
        (["run", "digits", "--set", "seed=many"], "a valid integer"),
        (["run", "digits", "--until", "distil"], "distill"),
        (["plan", "digits", "--set", "distill.stages.0.losses.0.name=forward_lk"], "unknown loss"),
        (["fit", "text_classification", "--set", "data.train=no.csv", "--set", "data.test=no.csv"], "no.csv"),
    ],
)
def test_wrong_input_ends_in_seconds_with_code_2_and_one_readable_message(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    started = time.monotonic()
    ended = jobs(*arguments, "--store", str(tmp_path / "store"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - started < 15  # 0.4 s to 3 s alone; tests share their cores


def test_with_json_an_error_is_the_one_document_on_stdout() -> None:
    ended = jobs("run", "nosuch", "--json")
    document = json.loads(ended.stdout)
    assert (document["error"], document["exit_code"], ended.returncode) == ("RecipeError", 2, 2)


def test_a_report_that_is_not_there_ends_with_code_1(tmp_path: Path) -> None:
    ended = jobs("report", "--store", str(tmp_path))
    assert ended.returncode == 1
    assert "no report latest in the store" in ended.stderr


def run(start_python: Start, body: str, as_json: bool = False) -> "subprocess.Popen[str]":
    return start_python(RUN.format(body=body, as_json=as_json))


def test_what_libraries_print_goes_to_stderr(start_python: Start) -> None:
    body = """print("from python"); os.write(1, b"from native code\\n"); subprocess.run(["echo", "from a child"])
    terminal.answer({"a": 1}, lambda console: console.print("for people"))"""
    out, err = run(start_python, body, as_json=True).communicate(timeout=60)
    assert json.loads(out) == {"a": 1}
    assert {"from python", "from native code", "from a child"} <= set(err.splitlines())
    assert run(start_python, body).communicate(timeout=60)[0] == "for people\n"


@pytest.mark.parametrize(
    ("error", "code"), [("RecipeError('x')", 2), ("StepFailed('fit', 'x')", 1), ("GateFailed([('g', 1.0, 2.0)])", 3)]
)
def test_an_error_decides_the_exit_code(start_python: Start, error: str, code: int) -> None:
    process = run(start_python, f"raise {error}")
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == code


def test_a_check_that_fails_after_the_answer_says_so_by_the_exit_code_and_not_by_a_second_document(
    start_python: Start,
) -> None:
    body = """terminal.answer({"problems": ["one"]}, lambda console: console.print("for people"))
    raise StepFailed("inspect", "one problem")"""
    process = run(start_python, body, as_json=True)
    out, err = process.communicate(timeout=60)
    assert json.loads(out) == {"problems": ["one"]}
    assert process.returncode == 1 and "one problem" in err


def test_a_defect_keeps_its_traceback_and_still_gives_one_document(start_python: Start) -> None:
    process = run(start_python, "return 1 // 0", as_json=True)
    out, err = process.communicate(timeout=60)
    assert json.loads(out)["error"] == "ZeroDivisionError"
    assert "Traceback" in err
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_soon_and_says_that_nothing_is_lost(
    start_python: Start, number: signal.Signals
) -> None:
    process = run(start_python, "os.write(2, b'up\\n'); time.sleep(60)", as_json=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "up\n"
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert json.loads(out)["error"] == "Interrupted"
    assert "what is done is kept" in err
    assert time.monotonic() - sent < 10


def test_progress_in_a_log_says_what_begins_how_far_it_is_and_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.05)
    terms = {"forward_kl": [0.95, 0.7], "hidden_mse": [0.3, 0.3]}
    seen = {"stage": "soft_labels", "step": 30, "steps": 200, "loss": 1.25, "terms": terms}
    (tmp_path / "distill.progress").write_text(json.dumps(seen))
    (tmp_path / "control.progress").write_text('{"stage": "so')
    file = io.StringIO()
    with Progress(Console(file=file, width=140)) as watcher:
        watcher.started("distill", [str(tmp_path)])
        time.sleep(0.3)
        watcher.finished("distill", [], 12.34, reused=False)
        watcher.finished("export", [], 0.0, reused=True)
    lines = file.getvalue().splitlines()
    assert lines[0].split() == ["distill", "..."]
    assert "distill: soft_labels 30/200, loss 1.250 (forward_kl 0.950 70%, hidden_mse 0.300 30%)" in lines[1]
    assert "✓ distill" in lines[-2]
    assert "12.3 s" in lines[-2]
    assert "reused" in lines[-1]


def test_progress_marks_the_step_that_an_error_ended() -> None:
    file = io.StringIO()
    with pytest.raises(ValueError, match="x"), Progress(Console(file=file)) as watcher:
        watcher.started("fit", [])
        raise ValueError("x")
    assert "✗ fit" in file.getvalue()


def test_progress_on_a_terminal_is_one_line_that_goes_away() -> None:
    file = io.StringIO()
    with Progress(Console(file=file, force_terminal=True, width=80)) as watcher:
        watcher.started("fit", [os.devnull])
        watcher.finished("fit", [], 1.0, reused=False)
    assert "✓" in file.getvalue().splitlines()[-1]


LONG = "/tmp/" + "a-folder-with-a-long-name/" * 12 + "[1] report 1.0.html"


def test_a_path_comes_out_whole_however_narrow_the_console_and_whatever_it_is_called() -> None:
    table = Table("model", box=None)
    table.add_row("[green]done[/green]")
    out = io.StringIO()
    console = Console(file=out, width=40)
    for what in (f"wrote {LONG}", Text("again ").append(LONG, "bold"), Group(table, whole(f"page: {LONG}"))):
        say(console, what)
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines == [f"wrote {LONG}", f"again {LONG}", "model", "done", f"page: {LONG}"]


def test_a_command_whose_stdout_is_a_file_names_what_it_wrote_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / ("a-long-name-" * 15) / "watch.yaml"
    done = jobs("schedule", "digits", "--out", str(path), "--store", str(tmp_path / "store"))
    assert (done.returncode, done.stdout) == (0, f"wrote {path}\n"), done.stderr
    assert path.is_file()
