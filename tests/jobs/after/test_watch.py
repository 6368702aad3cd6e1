"""A failure that was planted: named by diff, stopped by a gate, repaired by one round of watch."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import pauses
from cluster.errors import GateFailed, MismatchError, StepFailed
from cluster.recipe import Recipe
from cluster.recipe.watch import Schedule
from cluster.registry import Registry
from cluster.store import Store, tables
from jobs import pipeline, promote, watch
from jobs.after import diff, lineage, naming, reproduce
from jobs.after.watching import alarms
from jobs.step import run_name
from serving.bundle import predict
from serving.traffic import verdicts
from serving.traffic.verdicts import Verdict

MakeRecipe = Callable[..., Recipe]


def serve(store: Store, bundle: Path, version: int, sentences: Callable[[int, int], Any], count: int = 300) -> None:
    """Traffic of a version as the gateway logs it, with the true answers from feedback."""
    texts, labels = sentences(count, 77)
    engine = predict.load(bundle)
    rows = []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        answer = engine.predict([{"text": text}])[0]
        rows.append({"request_id": f"r{number}", "at": 1000 + number, "model": "salad", "version": str(version),
                     "arm": "champion", "prompt": text, "answer": answer.text, "confidence": answer.confidence,
                     "fell_back": False, "latency_ms": 1.0, "label": label})  # fmt: skip
    tables.append(store, "traffic", "salad", rows, 2000)


def dropped(version: int, **values: Any) -> Verdict:
    """The verdict that serving writes when quality fell by a fifth."""
    known = {"value": 0.8, "reference": 1.0, "drop": 0.2, "rows": 300, "window_start": 0, "window_end": 5000}
    return Verdict(6000, "drift", "salad", str(version), "accuracy", "recurate", **known | values)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_class_relabelled_is_named_by_diff_stopped_by_a_gate_and_repaired_by_one_round(
    text_recipe: MakeRecipe, store: Store, relabelled: Any, quiet: Any, without_ray: None, sentences: Any
) -> None:
    good = text_recipe()
    pipeline.check(good, store)
    first = pipeline.run(good, store, quiet, [*watch.MEASURE, "promote"])
    registry = Registry.beside(store.workspace)
    assert set(registry.aliases("salad")) == {"champion", "teacher"}

    bad = text_recipe(curate={"labels": relabelled(good, store, "card", "loan")})
    second = pipeline.run(bad, store, quiet, watch.MEASURE)
    with pytest.raises(GateFailed, match="retention_min"):
        promote.STEP.run(bad, store)

    found = diff.compare(store, diff.Wanted(*(run["artifacts"]["report"] for run in (first, second))))
    assert found["split"] == "validation"
    assert found["slices"][0]["name"] == "answers: card becomes loan"
    assert found["quality"]["first"] > 0.95 > found["quality"]["second"]
    assert found["slices"][0]["repair"]["generate"]["augment"][0]["params"]["where"] == {"label_name": ["card"]}

    forced = promote.overruling(True, []).run(bad, store).manifest.facts
    champion = registry.alias("salad", "champion")
    assert champion is not None
    registry.set_alias("salad", "champion", forced["version"], expect=champion.version)
    bundle = store.get("bundle", second["artifacts"]["bundle"]).path()
    serve(store, bundle, forced["version"], sentences)
    assert watch.once(good, store, quiet)["alarm"] is None
    verdicts.append(store, dropped(forced["version"]))
    done = watch.once(good, store, quiet)
    told = done["repair"]
    assert "dropped by 20.0%" in done["alarm"]
    assert told["slices"][0] == "answers: card becomes loan"
    assert told["held_out"]["before"] < 0.4 and told["held_out"]["after"] > 0.95
    challenger = registry.alias("salad", "challenger")
    assert challenger is not None and challenger.version == told["challenger"]["version"]
    assert pauses.find(store, "salad") is None
    assert watch.once(good, store, quiet)["alarm"] is None
    again = diff.compare(store, diff.Wanted("salad@champion", "salad@challenger"))
    assert again["quality"]["second"] > 0.95

    walked = lineage.trace(store, "salad@challenger")
    assert [node["kind"] for node in walked["artifacts"]][:5] == ["bundle", "student", "curated", "samples", "teacher"]
    assert not lineage.broken(walked) and walked["model"]["aliases"] == ["challenger"]
    assert walked["artifacts"][1]["about"]["continued"] == second["run"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_is_reproduced_bit_for_bit_in_another_store_and_a_changed_file_is_noticed(
    text_recipe: MakeRecipe, store: Store, tmp_path: Path, quiet: Any, without_ray: None
) -> None:
    recipe = text_recipe(name="again", promote={"model_name": "again"})
    record = pipeline.run(recipe, store, quiet, [*watch.MEASURE, "promote"])
    scratch = Store.open(tmp_path / "scratch")
    document = reproduce.run(store, "again@champion", scratch, quiet)
    assert document["verdict"] == reproduce.SAME
    assert {one["verdict"] for one in document["artifacts"]} == {reproduce.SAME}
    assert naming.find(store, "again").run == naming.find(store, record["run"]).run == document["run"]
    weights = store.get("student", record["artifacts"]["student"]).path() / "hf" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert any("student" in problem and "safetensors" in problem for problem in lineage.broken(
        lineage.trace(store, "again")))  # fmt: skip


def test_a_paused_model_is_neither_promoted_nor_distilled_but_by_the_run_that_repairs_it(
    text_recipe: MakeRecipe, store: Store
) -> None:
    recipe = text_recipe()
    pauses.refuse(store, "salad", "promote", run_name(recipe))
    pauses.pause(store, pauses.Pause("salad", 1, "accuracy dropped", "v1", run="salad-repair"))
    with pytest.raises(StepFailed, match=r"salad is paused: accuracy dropped[\s\S]*jobs resume"):
        pauses.refuse(store, "salad", "promote", run_name(recipe))
    pauses.refuse(store, "salad", "promote", "salad-repair")
    assert watch.resume(recipe, store) == {"resumed": "salad", "was": "accuracy dropped"}
    pauses.refuse(store, "salad", "distill", run_name(recipe))


def test_only_enough_requests_and_a_large_enough_drop_are_an_alarm_and_each_is_dealt_with_once(
    text_recipe: MakeRecipe, store: Store
) -> None:
    section = text_recipe().watch
    for number, verdict in enumerate([
        dropped(1, rows=99), dropped(1, drop=0.04, value=0.96), dropped(1),
    ]):  # fmt: skip
        quiet = "none" if number == 1 else verdict.decision
        verdicts.append(store, Verdict(**vars(verdict) | {"at": number, "decision": quiet}))
    found = alarms.alarm(store, "salad", section)
    assert found is not None and found.at == 2
    assert "accuracy of version 1 dropped by 20.0% over 300 requests" in alarms.reason(found)
    alarms.remember(store, "salad", alarms.handled_by(store, "salad", found, section), last={"daily": 5})
    assert alarms.alarm(store, "salad", section) is None
    verdicts.append(store, Verdict(9, "manual", "salad", "1", "accuracy", "recurate"))
    assert alarms.alarm(store, "salad", section) is not None
    assert alarms.state(store, "salad")["last"] == {"daily": 5}


def test_an_alarm_without_traffic_says_what_is_missing_and_leaves_the_model_paused(
    text_recipe: MakeRecipe, store: Store, quiet: Any
) -> None:
    verdicts.append(store, dropped(3))
    with pytest.raises(StepFailed, match="no request of version 3 has an answer to compare with"):
        watch.once(text_recipe(), store, quiet)
    assert pauses.find(store, "salad") is not None


def test_an_alarm_is_said_once_and_only_where_a_round_could_repair_the_student(
    text_recipe: MakeRecipe, store: Store, quiet: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> int:
        return sum(one.getMessage().startswith("alarm: ") for one in caplog.records)

    def refused(recipe: Recipe) -> None:
        raise MismatchError("no round can repair this student", got="", expected="")

    verdicts.append(store, dropped(3))
    with monkeypatch.context() as patched, pytest.raises(MismatchError):
        patched.setattr(watch, "check", refused)
        watch.once(text_recipe(), store, quiet)
    assert said() == 0
    for _ in range(2):
        with pytest.raises(StepFailed, match="no request of version 3"):
            watch.once(text_recipe(), store, quiet)
        assert said() == 1
    verdicts.append(store, dropped(3, verdict_id="later"))
    with pytest.raises(StepFailed, match="no request of version 3"):
        watch.once(text_recipe(), store, quiet)
    assert said() == 2


def test_what_fails_is_an_error_once_in_each_round_and_again_after_the_round_went_well(
    text_recipe: MakeRecipe, store: Store, quiet: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[list[int]] = []
    scripts = {"once": ["A", "A", None, "A"], "evaluate": ["A", "B", "B", "B"]}

    def round_(name: str) -> dict[str, Any]:
        wrong = scripts[name][len(polls)]
        if wrong is not None:
            raise StepFailed("watch", f"{name} {wrong}")
        return {"alarm": None}

    def slept(seconds: float) -> None:
        polls.append([one.levelno for one in caplog.records if one.getMessage().startswith("watch: ")])
        caplog.clear()
        if len(polls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "once", lambda *given: round_("once"))
    monkeypatch.setattr(watch, "scheduled", lambda *given: round_("evaluate"))
    monkeypatch.setattr(watch, "due", lambda *given: ["evaluate"])
    monkeypatch.setattr("time.sleep", slept)
    told: list[Any] = []
    with caplog.at_level(logging.DEBUG, "jobs.watch"), pytest.raises(KeyboardInterrupt):
        watch.loop(text_recipe(), store, quiet, told.append)
    first, again = logging.ERROR, logging.DEBUG
    assert polls == [[first, first], [again, first], [again], [first, again]] and not told


def test_a_round_is_due_when_its_period_has_passed_since_the_last() -> None:
    day = watch.DAY_MS
    last = {"evaluate": 0, "incremental": 0, "full": 0}
    assert watch.due(Schedule(), last, day - 1) == []
    assert watch.due(Schedule(), last, 7 * day) == ["evaluate", "incremental"]
    assert watch.due(Schedule(evaluate="never", full="monthly"), last, 30 * day) == ["incremental", "full"]
    assert watch.due(Schedule(), {}, 400 * day) == []


def test_a_training_stops_at_its_checkpoint_when_its_model_is_paused(text_recipe: MakeRecipe, store: Store) -> None:
    from jobs.training import halting
    from jobs.training.health import Stopped

    recipe = text_recipe()
    halting.refuse_paused(store, recipe, 0, 1)
    pauses.pause(store, pauses.Pause("salad", 1, "accuracy dropped", "v1"))
    with pytest.raises(Stopped, match="salad is paused: accuracy dropped"):
        halting.refuse_paused(store, recipe, 0, 1)
    halting.refuse_paused(None, recipe, 0, 1)
