"""Any OpenAI-compatible endpoint as teacher (DeepSeek, a vLLM server, Ray Serve): rated, retried, paid for, in order.

The key is read from an environment variable at each request and kept nowhere: recipes, pickles, errors and logs know
the variable's name only, and whatever a server sends back is searched for the key before it is shown.
"""

from __future__ import annotations

import json
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.errors import RecipeError
from cluster.recipe.models import AskingSection, ModelSection
from serving import teachers
from serving.bundle.answer import Answer
from serving.teachers import wire
from serving.teachers.budget import ALONE, Budget, Prices, Sharing
from serving.teachers.endpoint import OpenAIParams, clean, key_of
from serving.teachers.limiter import Limiter
from serving.teachers.replies import Failure, Reply, Usage
from serving.teachers.retry import Backoff, Trouble, status_trouble

if TYPE_CHECKING:
    import httpx

BODY_BYTES = 32 << 20  # more than any answer with log-probabilities; an endless body ends here


@dataclass(frozen=True)
class Times:
    """The clocks a teacher lives by: `clock` (s, any start), `sleep` (s), `wall` (Unix s)."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    wall: Callable[[], float] = time.time


class OpenAITeacher:
    """Asks `/chat/completions`, several requests at once; replies come in the order of the prompts.

    `counts` holds how often each kind of trouble was met (retried or not) and `logprobs_missing`; `budget.spent` what
    it cost so far. Pickles without connections, with fresh limits: a copy in another process is another actor.
    """

    def __init__(self, model: str, params: OpenAIParams, asking: AskingSection, sharing: Sharing = ALONE,
                 times: Times | None = None) -> None:  # fmt: skip
        self.model, self.params, self.asking, self.sharing = model, params, asking, sharing
        self.times = times or Times()
        rates = [_part(one, sharing.actors) for one in (asking.requests_per_s, asking.tokens_per_s)]
        self.limiter = Limiter(rates[0], rates[1], self.times.clock, self.times.sleep)
        parts = 1 if sharing.ledger else sharing.actors
        limits = [_part(one, parts) for one in (asking.budget, asking.budget_tokens)]
        self.budget, self.counts = Budget(limits[0], limits[1], sharing.ledger), Counter[str]()
        self.prices = Prices(asking.price_input, asking.price_output)
        self.backoff = Backoff(asking.attempts, asking.backoff_s, asking.backoff_cap_s, asking.patience_s)
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.params, self.asking, self.sharing)

    def __repr__(self) -> str:
        return f"OpenAITeacher({self.model!r} at {self.params.base_url})"

    @property
    def vocabulary(self) -> None:
        """An endpoint shows no logits."""
        return

    def prompt(self, item: Mapping[str, Any]) -> list[wire.Message]:
        """The conversation for one request; see `wire.messages`."""
        return wire.messages(item, self.params.system)

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """See `Teacher.answer`."""
        return teachers.answers(self, items)

    def complete(self, prompts: Sequence[list[wire.Message]], temperature: float = 0.0,
                 seeds: Sequence[int] | None = None) -> list[Reply | Failure]:  # fmt: skip
        """A reply or failure per prompt, in order. Raises InputError when the key is not in the environment.

        Which rows a spent budget leaves out depends on when the others settle; that it is never passed does not.
        """
        key_of(self.asking.key_env)
        pool = ThreadPoolExecutor(self.asking.concurrency, "teacher")
        try:
            asked = [
                pool.submit(self._row, prompt, temperature, None if seeds is None else seeds[row])
                for row, prompt in enumerate(prompts)
            ]
            return [future.result() for future in asked]
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt waits for what is under way, not for the whole queue

    def close(self) -> None:
        """Drop the connections; the next request opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _row(self, prompt: list[wire.Message], temperature: float, seed: int | None) -> Reply | Failure:
        body, stream = self._body(prompt, temperature, seed), random.Random(seed)  # jitter needs no secrecy
        most = self.prices.usage(wire.most_input_tokens(prompt), self.params.max_tokens)
        spent, attempt = Usage(0, 0), 0
        while True:
            if not self.budget.reserve(most):
                return Failure("budget", "the request budget is spent", attempt, spent)
            attempt += 1
            used = most  # what is not known to be less: also when something unforeseen is raised below
            try:
                outcome = self._attempt(body, most)
                used = _used(outcome, most)
            finally:
                self.budget.settle(most, used)
            spent = spent + used
            if isinstance(outcome, Reply):
                return replace(outcome, attempts=attempt, usage=spent)
            self._count(outcome.reason)
            wait = self.backoff.wait_s(attempt, outcome, stream)
            if wait is None:
                return Failure(outcome.reason, outcome.detail, attempt, spent)
            if outcome.retry_after_s is not None:
                self.limiter.pause(outcome.retry_after_s)
            self.times.sleep(wait)

    def _body(self, prompt: list[wire.Message], temperature: float, seed: int | None) -> dict[str, Any]:
        params = self.params
        body = {"model": self.model, "messages": prompt, "temperature": temperature, **params.extra}
        body[params.max_tokens_field] = params.max_tokens
        if params.send_seed and seed is not None:
            body["seed"] = seed % 2**31  # more is refused by servers that keep it in 32 bits
        if params.top_logprobs is not None:
            body |= {"logprobs": True} | ({"top_logprobs": params.top_logprobs} if params.top_logprobs else {})
        return body

    def _attempt(self, body: Mapping[str, Any], most: Usage) -> Reply | Trouble:
        guess = most.input_tokens / 4 + most.output_tokens  # four bytes a token: how providers count ahead, too
        self.limiter.acquire(guess)
        outcome = self._exchange(body, most)
        used = _used(outcome, most)
        if used.measured:
            self.limiter.settle(guess, used.input_tokens + used.output_tokens)
        if isinstance(outcome, Reply) and self.params.top_logprobs is not None and outcome.top is None:
            self._count("logprobs_missing")
        return outcome

    def _exchange(self, body: Mapping[str, Any], most: Usage) -> Reply | Trouble:
        """One request over the wire."""
        import httpx

        key = key_of(self.asking.key_env)
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        try:
            status, retry_after, content = self._post(json.dumps(body).encode(), headers)
        except httpx.TimeoutException as error:
            sent = not isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
            detail = f"no whole reply within {self.asking.timeout_s:g} s"
            return Trouble("timeout", detail, again=True, charged=sent)
        except (httpx.ConnectError, httpx.ProxyError) as error:
            return Trouble("connection", clean(str(error), key), again=True)
        except (httpx.NetworkError, httpx.ProtocolError, httpx.DecodingError) as error:
            return Trouble("cut_reply", clean(str(error), key), again=True, charged=True)
        if status != httpx.codes.OK:
            return status_trouble(status, clean(content.decode(errors="replace"), key), retry_after, self.times.wall)
        outcome = wire.parse(content, self.prices, most, self.params.top_logprobs is not None)
        return outcome if isinstance(outcome, Reply) else replace(outcome, detail=clean(outcome.detail, key))

    def _post(self, content: bytes, headers: Mapping[str, str]) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body. Raises httpx.TimeoutException when nothing comes for `timeout_s` or, however
        little at a time, the whole takes longer, and httpx.RemoteProtocolError for a body without end."""
        import httpx

        until, parts, size = self.times.clock() + self.asking.timeout_s, list[bytes](), 0
        url = f"{self.params.base_url}/chat/completions"
        with self._connected().stream("POST", url, content=content, headers=headers) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if self.times.clock() > until:
                    raise httpx.ReadTimeout("slow reply", request=response.request)
                if size > BODY_BYTES:
                    raise httpx.RemoteProtocolError(f"more than {BODY_BYTES} bytes", request=response.request)
            return response.status_code, response.headers.get("retry-after"), b"".join(parts)

    def _connected(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                limits = httpx.Limits(max_connections=self.asking.concurrency)
                # No redirects: a key must not travel to another host.
                self._client = httpx.Client(timeout=self.asking.timeout_s, limits=limits, follow_redirects=False)
                weakref.finalize(self, self._client.close)  # whoever forgets `close`
            return self._client

    def _count(self, reason: str) -> None:
        with self._lock:
            self.counts[reason] += 1


def check_section(section: ModelSection, at: str) -> None:
    """See `teachers.check`: the model has a name and the key is in the environment; nothing is asked."""
    OpenAIParams.parse(section.params, at=f"{at}.params")
    if section.weights is None:
        raise RecipeError(f"{at}.weights is needed", got="null", expected="the model's name at the endpoint")
    key_of(section.asking.key_env)


def open_section(section: ModelSection, sharing: Sharing, at: str) -> OpenAITeacher:
    """See `teachers.open_teacher`."""
    params = OpenAIParams.parse(section.params, at=f"{at}.params")
    return OpenAITeacher(str(section.weights), params, section.asking, sharing)


def _part(limit: float | None, parts: int) -> float | None:
    return None if limit is None else limit / parts


def _used(outcome: Reply | Trouble, most: Usage) -> Usage:
    """What an attempt is charged for: the reply's usage, all of its bound where that is not known, or nothing."""
    if isinstance(outcome, Reply):
        return outcome.usage or most
    return replace(most, measured=False) if outcome.charged else Usage(0, 0)
