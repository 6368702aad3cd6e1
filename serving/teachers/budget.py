"""What may be spent on an endpoint, in money or tokens: never over, because a request is paid for before it is sent.

Each attempt reserves the most it can take (every token of a prompt is at least one byte of it, and the answer's length
is bounded), and gives back what it did not use. An attempt whose outcome is unknown (a timeout, a cut reply, a process
that died) keeps its whole reservation: the server may have charged for it.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from cluster.store.filesystem import write_aside
from cluster.store.lock import hold_file
from serving.teachers.replies import Usage


@dataclass(frozen=True)
class Sharing:
    """Who else asks: rates are shared out evenly among `actors`, and budgets are kept in `ledger`, a file that all of
    them and every later try of the run go on with. Without one a budget too is shared out, and begins with the process.
    """

    actors: int = 1
    ledger: Path | None = None

    def of_member(self, index: int) -> Sharing:
        """The same for one teacher of several: each has a budget, and so a ledger, of its own."""
        ledger = None if self.ledger is None else self.ledger.with_stem(f"{self.ledger.stem}-{index}")
        return Sharing(self.actors, ledger)


ALONE = Sharing()


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens read and written, in the currency of the budget."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0

    def usage(self, input_tokens: int, output_tokens: int, measured: bool = True) -> Usage:
        """The usage with its cost."""
        cost = (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6
        return Usage(input_tokens, output_tokens, cost, measured)


class Ledger:
    """What was spent and set aside, read and written under a kernel lock: by one process, or by several on one store.

    Raises OSError where the folder cannot be written: without its ledger a budget would be none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Usage:
        """Everything reserved so far, less what was given back."""
        if not self._path.is_file():
            return Usage(0, 0)
        content = json.loads(self._path.read_text())
        return Usage(content["input_tokens"], content["output_tokens"], content["cost"])

    def add(self, most: Usage, limit: Budget) -> bool:
        """Enter `most` unless it passes the limit."""
        with hold_file(self._path.with_suffix(".lock")):
            total = self.read() + most
            if not limit.holds(total):
                return False
            self._write(total)
            return True

    def settle(self, most: Usage, used: Usage) -> None:
        """Turn `most`, entered before, into what was used."""
        with hold_file(self._path.with_suffix(".lock")):
            now = self.read()
            self._write(Usage(now.input_tokens - most.input_tokens + used.input_tokens,
                              now.output_tokens - most.output_tokens + used.output_tokens,
                              now.cost - most.cost + used.cost))  # fmt: skip

    def _write(self, total: Usage) -> None:
        content = {"input_tokens": total.input_tokens, "output_tokens": total.output_tokens, "cost": total.cost}
        write_aside(self._path, json.dumps(content).encode())


class Budget:
    """A limit in money, in tokens (read and written), in both or none, shared by all threads of a teacher and, with a
    `ledger`, by all teachers that name the same file."""

    def __init__(self, cost: float | None, tokens: float | None, ledger: Path | None = None) -> None:
        self.cost, self.tokens = cost, tokens
        self.spent = Usage(0, 0)
        self._ledger = None if ledger is None or (cost is None and tokens is None) else Ledger(ledger)
        self._held: list[Usage] = []
        self._changed = threading.Condition()

    def reserve(self, most: Usage) -> bool:
        """Set aside the most that an attempt can take. False: it does not fit, even when all others have settled.

        While others of this process are still out the answer is not known yet, and this waits for them; what other
        processes have set aside counts as spent.
        """
        with self._changed:
            while not self._fits(most):
                if not self._held:
                    return False
                self._changed.wait()
            self._held.append(most)
            return True

    def settle(self, most: Usage, used: Usage) -> None:
        """Turn a reservation into what was really used (nothing: `Usage(0, 0)`)."""
        with self._changed:
            if self._ledger is not None:
                self._ledger.settle(most, used)
            self._held.remove(most)
            self.spent = self.spent + used
            self._changed.notify_all()

    def holds(self, total: Usage) -> bool:
        """Whether a total is within the limit."""
        tokens = total.input_tokens + total.output_tokens
        return (self.cost is None or total.cost <= self.cost) and (self.tokens is None or tokens <= self.tokens)

    def _fits(self, most: Usage) -> bool:
        if self._ledger is not None:
            return self._ledger.add(most, self)
        total = most
        for usage in (self.spent, *self._held):
            total = total + usage
        return self.holds(total)
