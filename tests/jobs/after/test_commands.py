"""The commands that look back, as a user gives them: one JSON document, exit codes, and what is wrong in words."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from cluster.store import Store
from jobs.after import naming


@pytest.mark.parametrize("words", [
    ["diff", "nobody"], ["diff", "nobody@champion", "latest"], ["lineage", "nobody"], ["reproduce", "nobody"],
])  # fmt: skip
def test_a_model_that_is_not_there_is_wrong_input(command: Any, tmp_path: Path, words: list[str]) -> None:
    code, answer = command(*words, "--store", tmp_path / "store")
    assert code == 2 and answer["error"] == "InputError"
    assert "no such model or run" in answer["message"] or "there is no report yet" in answer["message"]


def test_a_schedule_is_written_where_it_is_asked_for(command: Any, tmp_path: Path) -> None:
    code, answer = command("schedule", "digits", "--as", "dvc", "--out", tmp_path / "a" / "dvc.yaml")
    assert code == 0 and (tmp_path / "a" / "dvc.yaml").is_file()
    assert answer == {"form": "dvc", "file": str(tmp_path / "a" / "dvc.yaml")}
    assert command("schedule", "digits", "--as", "cron")[0] == 2


def test_without_a_verdict_there_is_nothing_to_watch_and_without_a_pause_nothing_to_resume(
    command: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert command("watch", "digits", "--once", "--store", store) == (0, {"alarm": None, "paused": None})
    assert command("resume", "digits", "--store", store) == (0, {"resumed": "digits", "was": None})
    code, answer = command("watch", "digits", "--round", "yearly", "--store", store)
    assert code == 2 and "evaluate, incremental, full" in answer["message"]


def test_an_empty_store_says_how_to_fill_it(store: Store) -> None:
    with pytest.raises(InputError, match="python -m jobs run RECIPE"):
        naming.find(store, "latest")
