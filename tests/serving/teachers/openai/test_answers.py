"""An endpoint as teacher: what it is asked, what is made of its answers, and what every trouble of theirs becomes."""

import json
import time
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest

from serving.teachers import Failure, Reply
from serving.teachers.openai import OpenAITeacher, Times


def texts(teacher: OpenAITeacher, *asked: str, **how: Any) -> list[Reply | Failure]:
    return teacher.complete([teacher.prompt({"text": text}) for text in asked], **how)


def test_replies_come_in_order_with_usage_whatever_the_order_of_the_answers(server: Any, ask: Any) -> None:
    def slower_first(seen: Any, to: Any) -> None:
        time.sleep(0.15 if seen.text in ("0", "5") else 0.0)
        server.good(seen, to)

    server.script = [slower_first]
    replies = texts(ask(concurrency=4), *[str(row) for row in range(12)])
    assert [reply.text for reply in replies] == [f"echo {row}" for row in range(12)]
    assert {(reply.usage.input_tokens, reply.usage.output_tokens, reply.attempts) for reply in replies} == {(7, 3, 1)}
    assert 1 < server.most <= 4
    assert all(reply.confidence is None and reply.logits is None and reply.tokens is None for reply in replies)


def test_the_request_is_what_the_recipe_says(server: Any, ask: Any) -> None:
    teacher = ask({"system": "be brief", "max_tokens": 9, "max_tokens_field": "max_completion_tokens",
                   "top_logprobs": 3, "extra": {"top_p": 0.5}})  # fmt: skip
    texts(teacher, "hello", temperature=0.7, seeds=[2**40 + 5])
    (seen,) = server.seen
    assert seen.body == {
        "model": "some-model", "temperature": 0.7, "seed": 5, "max_completion_tokens": 9, "top_p": 0.5,
        "logprobs": True, "top_logprobs": 3,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    }  # fmt: skip
    assert seen.headers["authorization"] == f"Bearer {server.KEY}"
    texts(ask(key_env=None), "hi")
    assert "authorization" not in server.seen[-1].headers and "logprobs" not in server.seen[-1].body


def test_log_probabilities_give_confidence_and_packed_alternatives(server: Any, ask: Any) -> None:
    def word(token: str, logprob: float, *others: tuple[str, float]) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "top_logprobs": [{"token": t, "logprob": v} for t, v in others]}

    told = {"content": [word("yes", -0.1, ("yes", -0.1), ("no", -2.5)), word("!", -0.3, ("!", -0.3))]}
    server.script = [lambda _, to: server.send(to, 200, json.dumps(server.completion("yes!", logprobs=told)).encode())]
    (reply,) = texts(ask({"top_logprobs": 2}), "sure?")
    assert reply.confidence == pytest.approx(np.exp(-0.2)) and reply.tokens is None
    np.testing.assert_allclose(reply.top.chosen, [-0.1, -0.3], rtol=1e-6)
    assert reply.top.counts.tolist() == [2, 1] and reply.top.words == ("yes", "no", "!")


def test_log_probabilities_that_are_missing_are_counted_and_cost_no_answer(server: Any, ask: Any) -> None:
    teacher = ask({"top_logprobs": 2})
    (reply,) = texts(teacher, "sure?")
    assert reply.text == "echo sure?" and reply.confidence is None and teacher.counts == {"logprobs_missing": 1}
    assert teacher.answer([{"text": "again"}])[0].confidence == 0.0


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [((500,), "http_500"), ((502,), "http_502"), ((503,), "http_503"), ((504,), "http_504"), ((429,), "http_429"),
     ("cut", "cut_reply"), ("hang_up", "cut_reply"), ((200, b"{nonsense"), "bad_json"),
     ((200, b"\xff\xfe"), "bad_json"), ((200, b"[]"), "bad_reply"), ((200, b'{"choices": []}'), "bad_reply"),
     ((200, b'{"choices": [{}]}'), "bad_reply")],
    ids=["500", "502", "503", "504", "429", "cut", "hang_up", "bad_json", "no_text", "list", "no_choice", "no_message"],
)  # fmt: skip
def test_a_passing_trouble_is_tried_again_and_a_lasting_one_given_up(
    server: Any, ask: Any, hand_time: Any, trouble: Any, reason: str
) -> None:
    handler = getattr(server, trouble) if isinstance(trouble, str) else server.status(*trouble)
    server.script = [handler, handler, server.good]
    teacher = ask(attempts=3)
    (reply,) = texts(teacher, "hello", seeds=[3])
    assert reply.text == "echo hello" and reply.attempts == 3 and teacher.counts == {reason: 2}
    assert len(hand_time.slept) == 2 and hand_time.slept[0] <= 1.0 and hand_time.slept[1] <= 2.0
    server.script = [handler]
    (failure,) = texts(teacher, "bye", seeds=[3])
    assert isinstance(failure, Failure) and (failure.reason, failure.attempts) == (reason, 3)
    assert sum(seen.text == "bye" for seen in server.seen) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422, 301])
def test_a_permanent_refusal_is_one_failure_and_every_other_row_goes_on(server: Any, ask: Any, code: int) -> None:
    def refuse(seen: Any, to: Any) -> None:
        if seen.text != "bad":
            return server.good(seen, to)
        return server.send(to, code, f"bad key {server.KEY} in   request".encode(), location="http://127.0.0.1:9/")

    server.script = [refuse]
    first, failure, last = texts(ask(), "one", "bad", "two")
    assert (first.text, last.text) == ("echo one", "echo two")
    assert failure == Failure(f"http_{code}", "bad key [key] in request", 1, failure.usage)
    assert sum(seen.text == "bad" for seen in server.seen) == 1


@pytest.mark.parametrize("header", ["4", formatdate(1_000_004, usegmt=True)], ids=["seconds", "date"])
def test_retry_after_is_waited_for_in_both_forms(server: Any, ask: Any, hand_time: Any, header: str) -> None:
    server.script = [server.status(429, retry_after=header), server.good]
    teacher = ask(backoff_s=0.01)
    teacher.limiter.clock, teacher.limiter.sleep = hand_time.clock, hand_time.sleep
    (reply,) = texts(teacher, "hello")
    assert reply.attempts == 2 and 4.0 <= sum(hand_time.slept) <= 4.1


def test_a_retry_after_beyond_patience_is_given_up_at_once(server: Any, ask: Any, hand_time: Any) -> None:
    server.script = [server.status(429, retry_after="86400")]
    (failure,) = texts(ask(), "hello")
    assert (failure.reason, failure.attempts, hand_time.slept) == ("http_429", 1, [])


def test_one_rows_retry_after_holds_all_rows_in_real_time(server: Any, ask: Any) -> None:
    def busy_once(seen: Any, to: Any) -> None:
        first = len(server.seen) == 1
        server.send(to, 429, b"{}", retry_after="0.4") if first else server.good(seen, to)

    server.script = [busy_once]
    replies = texts(ask(times=Times(), backoff_s=0.01), "a", "b", "c")
    assert [reply.text for reply in replies] == ["echo a", "echo b", "echo c"]
    assert min(seen.at for seen in server.seen[1:]) - server.seen[0].at >= 0.4


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
def test_a_slow_reply_is_a_timeout_also_when_it_comes_in_drops(server: Any, ask: Any, drip: bool) -> None:
    def slow(_: Any, to: Any) -> None:
        to.send_response(200)
        to.send_header("content-length", "1000")
        to.end_headers()
        for _drop in range(12):
            to.wfile.write(b" " if drip else b"")
            to.wfile.flush()
            time.sleep(0.1)
        to.close_connection = True

    server.script = [slow, server.good]
    teacher = ask(timeout_s=0.3)
    started = time.monotonic()
    (reply,) = texts(teacher, "hello")
    assert reply.text == "echo hello" and teacher.counts == {"timeout": 1}
    assert time.monotonic() - started < 3
    assert reply.usage.output_tokens == 512 + 3  # the attempt whose end is unknown may have been charged for


def test_nobody_at_the_address_is_a_connection_failure(server: Any, ask: Any) -> None:
    teacher = ask(attempts=2)
    teacher.params = teacher.params.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    (failure,) = texts(teacher, "hello")
    assert (failure.reason, failure.attempts) == ("connection", 2) and teacher.budget.spent.input_tokens == 0


@pytest.mark.parametrize(
    ("choice", "reason"),
    [({"finish_reason": "content_filter"}, "content_filter"), ({"message": {"content": None}}, "empty")],
)
def test_a_withheld_or_empty_answer_is_a_failure_and_paid_for(server: Any, ask: Any, choice: Any, reason: str) -> None:
    server.script = [server.status(200, json.dumps(server.completion("x", **choice)).encode())]
    teacher = ask()
    (failure,) = texts(teacher, "hello")
    assert (failure.reason, failure.attempts) == (reason, 1) and teacher.budget.spent.output_tokens > 0
