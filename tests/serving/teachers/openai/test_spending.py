"""What an endpoint may cost, how often it is asked, and that its key is seen nowhere."""

import json
import logging
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError, RecipeError
from cluster.recipe.models import ModelSection
from serving import teachers
from serving.bundle.answer import BundleError
from serving.teachers import Failure, Reply
from serving.teachers.budget import Sharing
from serving.teachers.openai import OpenAITeacher, Times


def texts(teacher: OpenAITeacher, *asked: str, **how: Any) -> list[Reply | Failure]:
    return teacher.complete([teacher.prompt({"text": text}) for text in asked], **how)


def test_a_budget_in_money_is_never_passed_and_the_rest_fail_by_name(server: Any, ask: Any) -> None:
    # 7 tokens read and 3 written cost 7 * 1 + 3 * 2 = 13 millionths; 100 more are reserved while a row is out.
    teacher = ask({"max_tokens": 4}, budget=150e-6, price_input=1.0, price_output=2.0, concurrency=3)
    replies = texts(teacher, *[str(row) for row in range(20)])
    failed = [reply for reply in replies if isinstance(reply, Failure)]
    assert {(one.reason, one.attempts) for one in failed} == {("budget", 0)}
    answered = len(replies) - len(failed)
    assert len(server.seen) == answered == 6  # after six 78 are spent, and 73 more could be needed
    assert teacher.budget.spent.cost == pytest.approx(answered * 13e-6) and teacher.budget.spent.cost <= 150e-6


def test_a_budget_in_tokens_counts_attempts_of_unknown_end_in_full(server: Any, ask: Any) -> None:
    server.script = [server.cut]
    (failure,) = texts(ask({"max_tokens": 100}, budget_tokens=400.0, attempts=9), "hello")
    assert (failure.reason, failure.attempts) == ("budget", 2)  # 64 + 5 + 100 tokens each
    assert failure.usage.input_tokens + failure.usage.output_tokens == 2 * 169 and not failure.usage.measured


def test_a_reply_without_usage_is_charged_its_bound(server: Any, ask: Any) -> None:
    body = server.completion("hi")
    del body["usage"]
    server.script = [server.status(200, json.dumps(body).encode())]
    (reply,) = texts(ask({"max_tokens": 10}, price_output=1e6), "hello")
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.measured) == (69, 10, False)
    assert reply.usage.cost == 10.0


@pytest.mark.parametrize("kept", [False, True])
def test_rates_are_shared_out_among_actors_and_budgets_unless_a_ledger_keeps_them(
    kept: bool, ask: Any, tmp_path: Path
) -> None:
    sharing = Sharing(4, tmp_path / "spent.json" if kept else None)
    teacher = ask(sharing=sharing, requests_per_s=8.0, tokens_per_s=400.0, budget_tokens=1000.0)
    assert (teacher.limiter.requests.rate, teacher.limiter.tokens.rate) == (2.0, 100.0)
    assert teacher.budget.tokens == (1000.0 if kept else 250.0)


def test_a_teacher_opened_again_goes_on_with_what_was_spent(server: Any, ask: Any, tmp_path: Path) -> None:
    sharing, asking = Sharing(2, tmp_path / "spent.json"), {"budget_tokens": 700.0}
    answered = []
    for _ in range(4):  # four actors in a row, as after crashes; each reply takes 12 tokens and reserves 581
        answered += [isinstance(one, Reply) for one in texts(ask(sharing=sharing, **asking), *["hello"] * 4)]
    spent = json.loads((tmp_path / "spent.json").read_text())
    assert 0 < sum(answered) < 16 and not any(answered[sum(answered) :])
    assert spent["input_tokens"] + spent["output_tokens"] <= 700


def test_the_rate_holds_in_real_time_over_all_threads(server: Any, ask: Any) -> None:
    teacher, started = ask(times=Times(), concurrency=8, requests_per_s=10.0), time.monotonic()
    texts(teacher, *[str(row) for row in range(14)])
    assert max(seen.at for seen in server.seen) - started >= 0.4  # ten at once, four more at ten a second


def test_the_key_is_in_no_log_no_error_no_repr_and_no_pickle(
    server: Any, ask: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {server.KEY}"}}).encode()
    server.script = [
        server.status(500, echo),
        server.status(200, f'{{"choices": "{server.KEY}"}}'.encode()),
        server.status(401, echo),
    ]
    teacher = ask()
    with caplog.at_level(logging.DEBUG):
        (failure,) = texts(teacher, "hello")
    with pytest.raises(teachers.TeacherFailed) as raised:
        teacher.answer([{"text": "hello"}])
    section = ModelSection.parse({"architecture": "openai", "weights": "m", "params": {"base_url": server.url},
                                  "asking": {"key_env": server.KEY_ENV}})  # fmt: skip
    teachers.write_folder(section, tmp_path / "hf")
    shown = [caplog.text, repr(failure), repr(teacher), str(vars(teacher)), repr(raised.value), str(raised.value),
             (tmp_path / "hf" / "task.json").read_text(), repr(section), str(teacher.counts)]  # fmt: skip
    assert failure.reason == "http_401" and "[key]" in failure.detail
    for text in shown:
        assert server.KEY not in text and server.KEY[:10] not in text
    for one in (teacher, failure, raised.value, section):
        assert server.KEY.encode() not in pickle.dumps(one)


def test_a_pickled_teacher_answers_elsewhere(server: Any, ask: Any) -> None:
    teacher = ask()
    texts(teacher, "warm")
    copy = pickle.loads(pickle.dumps(teacher))
    try:
        assert texts(copy, "hello")[0].text == "echo hello" and copy.sharing == teacher.sharing
    finally:
        copy.close()


def test_a_folder_names_the_endpoint_and_opens_as_a_teacher(server: Any, tmp_path: Path) -> None:
    section = ModelSection.parse({"architecture": "openai", "weights": "m", "params": {"base_url": server.url},
                                  "asking": {"key_env": server.KEY_ENV}})  # fmt: skip
    teachers.write_folder(section, tmp_path)
    opened = teachers.open_folder(tmp_path, sharing=Sharing(2))
    assert isinstance(opened, OpenAITeacher) and opened.sharing.actors == 2
    assert opened.answer([{"text": "hello"}])[0].text == "echo hello"
    opened.close()


def test_pictures_go_as_data_urls_and_other_bytes_are_refused(ask: Any) -> None:
    teacher = ask()
    (message,) = teacher.prompt({"text": "what is it?", "images": [b"\x89PNG...", b"\xff\xd8\xff..."]})
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "image_url"]
    assert message["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    for item in ({"text": "x", "images": [b"GIF89a"]}, {"text": " "}, {}):
        with pytest.raises(BundleError):
            teacher.prompt(item)


def test_a_key_that_is_missing_or_no_key_is_found_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, server: Any, ask: Any
) -> None:
    section = ModelSection.parse({"architecture": "openai", "weights": "m", "params": {"base_url": server.url},
                                  "asking": {"key_env": server.KEY_ENV}})  # fmt: skip
    teachers.check(section)
    for value in ("two words", "line\nbreak", "ключ"):
        monkeypatch.setenv(server.KEY_ENV, value)
        with pytest.raises(InputError, match="holds no key") as raised:
            teachers.check(section)
        assert value not in str(raised.value)
    monkeypatch.delenv(server.KEY_ENV)
    for refused in (lambda: teachers.check(section), lambda: texts(ask(), "hello")):
        with pytest.raises(InputError, match=f"environment variable {server.KEY_ENV} is not set"):
            refused()
    assert server.seen == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"params": {"base_url": "ftp://x/v1"}}, "params.base_url"),
     ({"params": {"base_url": "http://me:pass@host/v1"}}, "without name, password"),
     ({"params": {"base_url": "http://h/v1", "extra": {"model": "x"}}}, "extra without model"),
     ({"params": {"base_url": "http://h/v1", "key": "sk"}}, "unknown key teacher.params.key"),
     ({"weights": None}, "teacher.weights is needed")],
)  # fmt: skip
def test_a_wrong_endpoint_is_refused_with_its_place(changes: Any, said: str) -> None:
    values = {"architecture": "openai", "weights": "m", "params": {"base_url": "http://h/v1"}, **changes}
    with pytest.raises(RecipeError, match=said):
        teachers.check(ModelSection.parse(values, at="teacher"))


def test_money_without_prices_is_refused_and_asking_names_no_artifact() -> None:
    with pytest.raises(RecipeError, match="price_input and price_output"):
        ModelSection.parse({"architecture": "openai", "asking": {"budget": 3.0}})
    one = ModelSection.parse({"architecture": "openai"})
    assert one.identity() == ModelSection.parse({"architecture": "openai", "asking": {"attempts": 2}}).identity()
