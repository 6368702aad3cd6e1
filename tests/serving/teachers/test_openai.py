"""An endpoint as teacher, against a real HTTP server that misbehaves in every way that real ones do."""

import json
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import InputError, RecipeError
from cluster.recipe.models import AskingSection, ModelSection
from serving import teachers
from serving.bundle.answer import BundleError
from serving.teachers import Failure, Reply
from serving.teachers.budget import ALONE, Sharing
from serving.teachers.endpoint import OpenAIParams
from serving.teachers.openai import OpenAITeacher, Times

KEY, KEY_ENV = "sk-very-secret-0123456789", "RAYDISTILL_TEST_KEY"
Handler = Callable[["Seen", BaseHTTPRequestHandler], None]


class Seen:
    """One request that came in."""

    def __init__(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.body, self.headers, self.at = body, headers, time.monotonic()
        self.text = body["messages"][-1]["content"]


def completion(text: str, tokens: tuple[int, int] = (7, 3), logprobs: Any = None, **choice: Any) -> dict[str, Any]:
    answer = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return {"choices": [{**answer, **choice}], "usage": usage}


def send(to: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    to.send_response(status)
    to.send_header("content-length", headers.pop("length", str(len(body))))
    for name, value in headers.items():
        to.send_header(name.replace("_", "-"), value)
    to.end_headers()
    to.wfile.write(body)


def good(seen: Seen, to: BaseHTTPRequestHandler) -> None:
    send(to, 200, json.dumps(completion(f"echo {seen.text}")).encode())


class Server:
    """Answers the n-th request for a text by the n-th of its handlers, the last one again and again."""

    def __init__(self) -> None:
        self.script: list[Handler] = [good]
        self.seen: list[Seen] = []
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        outer = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                seen = Seen(json.loads(self.rfile.read(int(self.headers["content-length"]))), dict(self.headers))
                with outer.lock:
                    turn = sum(other.text == seen.text for other in outer.seen)
                    outer.seen.append(seen)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    outer.script[min(turn, len(outer.script) - 1)](seen, self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up, as it was meant to
                finally:
                    with outer.lock:
                        outer.now -= 1

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(KEY_ENV, KEY)
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.http.shutdown()
    running.thread.join()
    running.http.server_close()


@pytest.fixture
def ask(server: Server, hand_time: Any) -> Iterator[Callable[..., OpenAITeacher]]:
    """Make a teacher of the server; its sleeps move time by hand unless `times` is given."""
    made: list[OpenAITeacher] = []

    def make(params: Any = None, times: Times | None = None, sharing: Sharing = ALONE, **asking: Any) -> OpenAITeacher:
        given = OpenAIParams(base_url=server.url, **(params or {}))
        section = AskingSection(**{"key_env": KEY_ENV, "concurrency": 1, **asking})
        by_hand = Times(time.monotonic, hand_time.sleep, lambda: 1_000_000.0)
        made.append(OpenAITeacher("some-model", given, section, sharing, times or by_hand))
        return made[-1]

    yield make
    for teacher in made:
        teacher.close()


def texts(teacher: OpenAITeacher, *asked: str, **how: Any) -> list[Reply | Failure]:
    return teacher.complete([teacher.prompt({"text": text}) for text in asked], **how)


def test_replies_come_in_order_with_usage_whatever_the_order_of_the_answers(server: Server, ask: Any) -> None:
    def slower_first(seen: Seen, to: BaseHTTPRequestHandler) -> None:
        time.sleep(0.15 if seen.text in ("0", "5") else 0.0)
        good(seen, to)

    server.script = [slower_first]
    replies = texts(ask(concurrency=4), *[str(row) for row in range(12)])
    assert [reply.text for reply in replies] == [f"echo {row}" for row in range(12)]
    assert {(reply.usage.input_tokens, reply.usage.output_tokens, reply.attempts) for reply in replies} == {(7, 3, 1)}
    assert 1 < server.most <= 4
    assert all(reply.confidence is None and reply.logits is None and reply.tokens is None for reply in replies)


def test_the_request_is_what_the_recipe_says(server: Server, ask: Any) -> None:
    teacher = ask({"system": "be brief", "max_tokens": 9, "max_tokens_field": "max_completion_tokens",
                   "top_logprobs": 3, "extra": {"top_p": 0.5}})  # fmt: skip
    texts(teacher, "hello", temperature=0.7, seeds=[2**40 + 5])
    (seen,) = server.seen
    assert seen.body == {
        "model": "some-model", "temperature": 0.7, "seed": 5, "max_completion_tokens": 9, "top_p": 0.5,
        "logprobs": True, "top_logprobs": 3,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    }  # fmt: skip
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    texts(ask(key_env=None), "hi")
    assert "authorization" not in server.seen[-1].headers and "logprobs" not in server.seen[-1].body


def test_log_probabilities_give_confidence_and_packed_alternatives(server: Server, ask: Any) -> None:
    def word(token: str, logprob: float, *others: tuple[str, float]) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "top_logprobs": [{"token": t, "logprob": v} for t, v in others]}

    told = {"content": [word("yes", -0.1, ("yes", -0.1), ("no", -2.5)), word("!", -0.3, ("!", -0.3))]}
    server.script = [lambda _, to: send(to, 200, json.dumps(completion("yes!", logprobs=told)).encode())]
    (reply,) = texts(ask({"top_logprobs": 2}), "sure?")
    assert reply.confidence == pytest.approx(np.exp(-0.2)) and reply.tokens is None
    np.testing.assert_allclose(reply.top.chosen, [-0.1, -0.3], rtol=1e-6)
    assert reply.top.counts.tolist() == [2, 1] and reply.top.words == ("yes", "no", "!")


def test_log_probabilities_that_are_missing_are_counted_and_cost_no_answer(server: Server, ask: Any) -> None:
    teacher = ask({"top_logprobs": 2})
    (reply,) = texts(teacher, "sure?")
    assert reply.text == "echo sure?" and reply.confidence is None and teacher.counts == {"logprobs_missing": 1}
    assert teacher.answer([{"text": "again"}])[0].confidence == 0.0


def status(code: int, body: bytes = b"{}", **headers: str) -> Handler:
    return lambda _, to: send(to, code, body, **headers)


def cut(_: Seen, to: BaseHTTPRequestHandler) -> None:
    send(to, 200, b'{"choices": [{"mess', length="500")
    to.close_connection = True


def hang_up(_: Seen, to: BaseHTTPRequestHandler) -> None:
    to.close_connection = True
    to.connection.close()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(status(500), "http_500"), (status(502), "http_502"), (status(503), "http_503"), (status(504), "http_504"),
     (status(429), "http_429"), (cut, "cut_reply"), (hang_up, "cut_reply"), (status(200, b"{nonsense"), "bad_json"),
     (status(200, b"\xff\xfe"), "bad_json"), (status(200, b"[]"), "bad_reply"),
     (status(200, b'{"choices": []}'), "bad_reply"), (status(200, b'{"choices": [{}]}'), "bad_reply")],
    ids=["500", "502", "503", "504", "429", "cut", "hang_up", "bad_json", "no_text", "list", "no_choice", "no_message"],
)  # fmt: skip
def test_a_passing_trouble_is_tried_again_and_a_lasting_one_given_up(
    server: Server, ask: Any, hand_time: Any, trouble: Handler, reason: str
) -> None:
    server.script = [trouble, trouble, good]
    teacher = ask(attempts=3)
    (reply,) = texts(teacher, "hello", seeds=[3])
    assert reply.text == "echo hello" and reply.attempts == 3 and teacher.counts == {reason: 2}
    assert len(hand_time.slept) == 2 and hand_time.slept[0] <= 1.0 and hand_time.slept[1] <= 2.0
    server.script = [trouble]
    (failure,) = texts(teacher, "bye", seeds=[3])
    assert isinstance(failure, Failure) and (failure.reason, failure.attempts) == (reason, 3)
    assert sum(seen.text == "bye" for seen in server.seen) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422, 301])
def test_a_permanent_refusal_is_one_failure_and_every_other_row_goes_on(server: Server, ask: Any, code: int) -> None:
    def refuse(seen: Seen, to: BaseHTTPRequestHandler) -> None:
        if seen.text != "bad":
            return good(seen, to)
        return send(to, code, f"bad key {KEY} in   request".encode(), location="http://127.0.0.1:9/")

    server.script = [refuse]
    first, failure, last = texts(ask(), "one", "bad", "two")
    assert (first.text, last.text) == ("echo one", "echo two")
    assert failure == Failure(f"http_{code}", "bad key [key] in request", 1, failure.usage)
    assert sum(seen.text == "bad" for seen in server.seen) == 1


@pytest.mark.parametrize("header", ["4", formatdate(1_000_004, usegmt=True)], ids=["seconds", "date"])
def test_retry_after_is_waited_for_in_both_forms(server: Server, ask: Any, hand_time: Any, header: str) -> None:
    server.script = [status(429, retry_after=header), good]
    teacher = ask(backoff_s=0.01)
    teacher.limiter.clock, teacher.limiter.sleep = hand_time.clock, hand_time.sleep
    (reply,) = texts(teacher, "hello")
    assert reply.attempts == 2 and 4.0 <= sum(hand_time.slept) <= 4.1


def test_a_retry_after_beyond_patience_is_given_up_at_once(server: Server, ask: Any, hand_time: Any) -> None:
    server.script = [status(429, retry_after="86400")]
    (failure,) = texts(ask(), "hello")
    assert (failure.reason, failure.attempts, hand_time.slept) == ("http_429", 1, [])


def test_one_rows_retry_after_holds_all_rows_in_real_time(server: Server, ask: Any) -> None:
    def busy_once(seen: Seen, to: BaseHTTPRequestHandler) -> None:
        first = len(server.seen) == 1
        send(to, 429, b"{}", retry_after="0.4") if first else good(seen, to)

    server.script = [busy_once]
    replies = texts(ask(times=Times(), backoff_s=0.01), "a", "b", "c")
    assert [reply.text for reply in replies] == ["echo a", "echo b", "echo c"]
    assert min(seen.at for seen in server.seen[1:]) - server.seen[0].at >= 0.4


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
def test_a_slow_reply_is_a_timeout_also_when_it_comes_in_drops(server: Server, ask: Any, drip: bool) -> None:
    def slow(_: Seen, to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("content-length", "1000")
        to.end_headers()
        for _drop in range(12):
            to.wfile.write(b" " if drip else b"")
            to.wfile.flush()
            time.sleep(0.1)
        to.close_connection = True

    server.script = [slow, good]
    teacher = ask(timeout_s=0.3)
    started = time.monotonic()
    (reply,) = texts(teacher, "hello")
    assert reply.text == "echo hello" and teacher.counts == {"timeout": 1}
    assert time.monotonic() - started < 3
    assert reply.usage.output_tokens == 512 + 3  # the attempt whose end is unknown may have been charged for


def test_nobody_at_the_address_is_a_connection_failure(server: Server, ask: Any) -> None:
    teacher = ask(attempts=2)
    teacher.params = teacher.params.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    (failure,) = texts(teacher, "hello")
    assert (failure.reason, failure.attempts) == ("connection", 2) and teacher.budget.spent.input_tokens == 0


@pytest.mark.parametrize(
    ("choice", "reason"),
    [({"finish_reason": "content_filter"}, "content_filter"), ({"message": {"content": None}}, "empty")],
)
def test_a_withheld_or_empty_answer_is_a_failure_and_paid_for(
    server: Server, ask: Any, choice: Any, reason: str
) -> None:
    server.script = [status(200, json.dumps(completion("x", **choice)).encode())]
    teacher = ask()
    (failure,) = texts(teacher, "hello")
    assert (failure.reason, failure.attempts) == (reason, 1) and teacher.budget.spent.output_tokens > 0


def test_a_budget_in_money_is_never_passed_and_the_rest_fail_by_name(server: Server, ask: Any) -> None:
    # 7 tokens read and 3 written cost 7 * 1 + 3 * 2 = 13 millionths; 100 more are reserved while a row is out.
    teacher = ask({"max_tokens": 4}, budget=150e-6, price_input=1.0, price_output=2.0, concurrency=3)
    replies = texts(teacher, *[str(row) for row in range(20)])
    failed = [reply for reply in replies if isinstance(reply, Failure)]
    assert {(one.reason, one.attempts) for one in failed} == {("budget", 0)}
    answered = len(replies) - len(failed)
    assert len(server.seen) == answered == 6  # after six 78 are spent, and 73 more could be needed
    assert teacher.budget.spent.cost == pytest.approx(answered * 13e-6) and teacher.budget.spent.cost <= 150e-6


def test_a_budget_in_tokens_counts_attempts_of_unknown_end_in_full(server: Server, ask: Any) -> None:
    server.script = [cut]
    (failure,) = texts(ask({"max_tokens": 100}, budget_tokens=400.0, attempts=9), "hello")
    assert (failure.reason, failure.attempts) == ("budget", 2)  # 64 + 5 + 100 tokens each
    assert failure.usage.input_tokens + failure.usage.output_tokens == 2 * 169 and not failure.usage.measured


def test_a_reply_without_usage_is_charged_its_bound(server: Server, ask: Any) -> None:
    body = completion("hi")
    del body["usage"]
    server.script = [status(200, json.dumps(body).encode())]
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


def test_a_teacher_opened_again_goes_on_with_what_was_spent(server: Server, ask: Any, tmp_path: Path) -> None:
    sharing, asking = Sharing(2, tmp_path / "spent.json"), {"budget_tokens": 700.0}
    answered = []
    for _ in range(4):  # four actors in a row, as after crashes; each reply takes 12 tokens and reserves 581
        answered += [isinstance(one, Reply) for one in texts(ask(sharing=sharing, **asking), *["hello"] * 4)]
    spent = json.loads((tmp_path / "spent.json").read_text())
    assert 0 < sum(answered) < 16 and not any(answered[sum(answered) :])
    assert spent["input_tokens"] + spent["output_tokens"] <= 700


def test_the_rate_holds_in_real_time_over_all_threads(server: Server, ask: Any) -> None:
    teacher, started = ask(times=Times(), concurrency=8, requests_per_s=10.0), time.monotonic()
    texts(teacher, *[str(row) for row in range(14)])
    assert max(seen.at for seen in server.seen) - started >= 0.4  # ten at once, four more at ten a second


def test_the_key_is_in_no_log_no_error_no_repr_and_no_pickle(
    server: Server, ask: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    server.script = [status(500, echo), status(200, f'{{"choices": "{KEY}"}}'.encode()), status(401, echo)]
    teacher = ask()
    with caplog.at_level(logging.DEBUG):
        (failure,) = texts(teacher, "hello")
    with pytest.raises(teachers.TeacherFailed) as raised:
        teacher.answer([{"text": "hello"}])
    section = ModelSection.parse({"architecture": "openai", "weights": "m", "params": {"base_url": server.url},
                                  "asking": {"key_env": KEY_ENV}})  # fmt: skip
    teachers.write_folder(section, tmp_path / "hf")
    shown = [caplog.text, repr(failure), repr(teacher), str(vars(teacher)), repr(raised.value), str(raised.value),
             (tmp_path / "hf" / "task.json").read_text(), repr(section), str(teacher.counts)]  # fmt: skip
    assert failure.reason == "http_401" and "[key]" in failure.detail
    for text in shown:
        assert KEY not in text and KEY[:10] not in text
    for one in (teacher, failure, raised.value, section):
        assert KEY.encode() not in pickle.dumps(one)


def test_a_pickled_teacher_answers_elsewhere(server: Server, ask: Any) -> None:
    teacher = ask()
    texts(teacher, "warm")
    copy = pickle.loads(pickle.dumps(teacher))
    try:
        assert texts(copy, "hello")[0].text == "echo hello" and copy.sharing == teacher.sharing
    finally:
        copy.close()


def test_a_folder_names_the_endpoint_and_opens_as_a_teacher(server: Server, tmp_path: Path) -> None:
    section = ModelSection.parse({"architecture": "openai", "weights": "m", "params": {"base_url": server.url},
                                  "asking": {"key_env": KEY_ENV}})  # fmt: skip
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
    monkeypatch: pytest.MonkeyPatch, server: Server, ask: Any
) -> None:
    section = ModelSection.parse({"architecture": "openai", "weights": "m", "params": {"base_url": server.url},
                                  "asking": {"key_env": KEY_ENV}})  # fmt: skip
    teachers.check(section)
    for value in ("two words", "line\nbreak", "ключ"):
        monkeypatch.setenv(KEY_ENV, value)
        with pytest.raises(InputError, match="holds no key") as raised:
            teachers.check(section)
        assert value not in str(raised.value)
    monkeypatch.delenv(KEY_ENV)
    for refused in (lambda: teachers.check(section), lambda: texts(ask(), "hello")):
        with pytest.raises(InputError, match=f"environment variable {KEY_ENV} is not set"):
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
