"""The command itself under Ray Tune: packed trials, a driver that is killed and run again, and what it hands back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.store import Store

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 8
RATE = "distill.stages.0.learning_rate"


def command(store: Path, overrides: list[str], *more: str) -> list[str]:
    """The command line of a search over the tiny recipe."""
    sets = [word for value in overrides for word in ("--set", value)]
    start = [sys.executable, "-m", "tuning", "search", "image_classification", "--json", "--store", str(store)]
    return [*start, "--trials", str(TRIALS), "--concurrent", "1", *sets, *more]


def run(store: Path, overrides: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(store, overrides, *more), cwd=ROOT, text=True, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_that_is_killed_goes_on_and_trains_no_finished_trial_again(
    tmp_path: Path, overrides: list[str]
) -> None:
    store = Store.open(tmp_path / "runs")
    with (tmp_path / "err").open("w") as err:
        driver = subprocess.Popen(command(tmp_path / "runs", overrides), cwd=ROOT, stdout=err, stderr=err)
        until = time.monotonic() + 400
        while len(_done(store)) < 3:
            assert driver.poll() is None and time.monotonic() < until, (tmp_path / "err").read_text()[-3000:]
            time.sleep(0.2)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    before = _done(store)
    finished = run(tmp_path / "runs", [*overrides, "search.finalists=1"])
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout)
    statuses = [one["status"] for one in found["trials"]]
    assert len(statuses) == TRIALS and set(statuses) <= {"done", "stopped"} and "stopped" in statuses
    made = {one["trial"] for one in found["trials"] if one["status"] == "done"}
    assert before <= made
    assert all(store.get("trial", aid).manifest.executions == 1 for aid in made)
    assert all(store.attempts("trial", aid) == 1 for aid in before)
    # The teacher was asked once for all of them, and nothing read the test rows.
    assert [one["runs"] for one in found["teacher"]] == [1] and not store.list("report")
    _as_it_was_left(tmp_path / "runs", [*overrides, "search.finalists=1"], found)


def _as_it_was_left(folder: Path, overrides: list[str], found: dict[str, Any]) -> None:
    """A search that is complete answers at once, with the same result; its best recipe is one that runs."""
    started = time.monotonic()
    again = json.loads(run(folder, overrides).stdout)
    assert again["artifact"] == found["artifact"] and time.monotonic() - started < 60
    assert again["best"]["objectives"]["quality"] >= again["preset"]["objectives"]["quality"]
    _confirmed(found)
    planned = subprocess.run(
        [sys.executable, "-m", "jobs", "plan", found["best_recipe"], "--json", "--store", str(folder)],
        cwd=ROOT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    done = {step["verb"] for step in json.loads(planned.stdout)["steps"] if step["done"]}
    assert done == {"fit", "generate", "curate"}
    assert Path(found["folder"], "report.html").is_file()
    assert not list(folder.glob("trial/*/scratch/*"))


def _confirmed(found: dict[str, Any]) -> None:
    """The best was named by seeds that no trial of the search had, and the recipe as it was had them too."""
    again = found["confirmed"]
    assert again["seeds"] == [1, 2] and not found["failed_finals"]
    assert [len(one["qualities"]) for one in again["finalists"]] == [2, 2]
    assert sorted(one["preset"] for one in again["finalists"]) == [False, True]
    first, last = (one["objectives"]["quality"] for one in again["finalists"])
    assert found["best"]["number"] == again["finalists"][0]["number"] and first >= last
    assert found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_at_once_a_trial_that_fails_is_noted_with_its_reason_and_the_search_goes_on(
    tmp_path: Path, overrides: list[str]
) -> None:
    knobs = (
        "{distill.stages.0.learning_rate: {choice: [0.004, 0.005, 0.02]}, curate.min_kept_share: {choice: [0.1, 1.0]}}"
    )
    more = ["--searcher", "motpe", "--concurrent", "2", "--set", f"search.knobs={knobs}", "--trials", "6"]
    finished = run(tmp_path / "runs", [*overrides, "search.grace_share=0.9", "search.confirm_seeds=0"], *more)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout)
    ends = {(one["point"]["curate.min_kept_share"], one["status"]) for one in found["trials"]}
    assert len(found["trials"]) == 6 and ends == {(0.1, "done"), (1.0, "failed")}
    failed = [one for one in found["trials"] if one["status"] == "failed"]
    assert all(one["reason"].startswith("curate failed: kept") for one in failed)
    assert found["front"] and found["best"]["point"]["curate.min_kept_share"] == 0.1


def _done(store: Store) -> set[str]:
    """Ids of the trials that the search's record calls done."""
    records = [store.read_record(name) or {} for name in store.records("searches/")]
    return {one["trial"] for record in records for one in record["trials"] if one["status"] == "done"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--searcher", "grid"], "--searcher names none"),
        (["--searcher", "pbt"], "exploits nothing unless its whole population trains at once"),
        (["--money", "5"], "--money needs a price"),
        (["--warm-from", "nothing"], "no search nothing in the store"),
        (["--warm-from", "none,other"], "all and none stand alone"),
        (["--set", "search.knobs={distill.stages.0.epoch: {between: [1, 2]}}"], "did you mean distill.stages.0.epochs"),
        (["--set", "search.knobs={student.params.stam: {choice: [8, 16]}}"], r"did you mean student.params.stem\?"),
        (["--set", "search.knobs={export.scheme: {choice: [fast, excat]}}"], "export.scheme"),
        (["--space", "nowhere.yaml"], "--space names no file"),
    ],
)
def test_wrong_input_is_found_before_ray_starts(
    tmp_path: Path, overrides: list[str], more: list[str], told: str
) -> None:
    from cluster.errors import InputError
    from tuning import command as commands
    from tuning import search

    words = dict(zip(more[::2], more[1::2], strict=True))
    changes = [*overrides, *([words["--set"]] if "--set" in words else [])]
    wanted = search.Wanted(
        3, words.get("--searcher", "tpe"), money=float(words["--money"]) if "--money" in words else None,
        warm_from=tuple(words["--warm-from"].split(",")) if "--warm-from" in words else (),
    )  # fmt: skip
    with pytest.raises(InputError, match=told):
        search.check(
            commands.opened("image_classification", changes, words.get("--space")), wanted, Store.open(tmp_path)
        )


def test_a_space_may_come_from_a_file(tmp_path: Path, overrides: list[str]) -> None:
    from tuning import command as commands

    (tmp_path / "space.yaml").write_text("distill.stages.0.learning_rate: {log: [1.0e-3, 1.0e-2]}\n")
    recipe = commands.opened("image_classification", overrides, str(tmp_path / "space.yaml"))
    assert list(recipe.search.knobs) == ["distill.stages.0.learning_rate"]
    (tmp_path / "section.yaml").write_text("knobs: {export.opset: {integer: [15, 17]}}\nseed: 7\n")
    recipe = commands.opened("image_classification", overrides, str(tmp_path / "section.yaml"))
    assert recipe.search.seed == 7 and recipe.search.latency_requests == 20


def test_a_search_is_named_by_what_it_looks_for_and_not_by_how_far_it_goes(searched_recipe: Any) -> None:
    from tuning.search import Wanted, search_name

    one = search_name(searched_recipe(), Wanted(3))
    assert one == search_name(searched_recipe("search.price_per_hour=2.0"), Wanted(9, minutes=3.0, money=1.0))
    assert one != search_name(searched_recipe(), Wanted(3, "random"))
    assert one != search_name(searched_recipe("search.seed=1"), Wanted(3))
    assert one != search_name(searched_recipe(), Wanted(3, warm_from=("none",)))
    assert one == search_name(searched_recipe("search.gpus=0.5", "search.finalists=5"), Wanted(3))


def test_a_search_on_other_rows_in_the_same_file_is_another_search(searched_recipe: Any, tmp_path: Path) -> None:
    from tuning import prior
    from tuning.objective import students
    from tuning.search import Wanted, search_name
    from tuning.space import Space

    file, store = tmp_path / "rows.csv", Store.open(tmp_path / "runs")
    recipe = searched_recipe("data.source=table", f"data.train={file}", f"data.test={file}")
    trial = {"point": {**Space(recipe).base, RATE: 0.002}, "status": "done", "objectives": {"quality": 0.5}}
    names = []
    for text in ("image,label\na.png,1\n", "image,label\na.png,2\n"):
        file.write_text(text)
        names.append(search_name(recipe, Wanted(3)))
        about = {"recipe": recipe.model_dump(mode="json"), "students": students(recipe), "trials": [trial]}
        store.write_record(f"searches/{names[-1]}", about)
    assert names[0] != names[1]
    # Of the same rows trials are known; of others their points are only tried first.
    other, own = (prior.learn(Space(recipe), store, [name], "new") for name in names)
    assert not other.known and other.points and own.known


def test_the_budget_ends_a_search_by_minutes_or_by_money(tmp_path: Path) -> None:
    from tuning.budget import Budget
    from tuning.ledger import Ledger

    def budget(minutes: float | None, money: float | None) -> Budget:
        return Budget(Ledger(Store.open(tmp_path), "one", {}), minutes, money, price_per_hour=3600.0)

    never, late, dear = budget(None, None), budget(0.0, None), budget(None, 10.0)
    assert not never.stop_all() and late.stop_all() and late.ledger.over
    assert not dear("a", {"time_total_s": 6.0}) and not dear.stop_all()
    assert not dear("a", {"time_total_s": 7.0}) and not dear("b", {"time_total_s": 4.0})
    assert dear.spent == 11.0 and dear.stop_all() and dear.ledger.over
