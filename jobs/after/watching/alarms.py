"""Which of serving's verdicts is an alarm that nobody has dealt with yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.recipe import WatchSection
from cluster.store import Store
from serving.traffic import verdicts
from serving.traffic.verdicts import Verdict

PREFIX = "watch/"
RECURATE, MANUAL = "recurate", "manual"


def alarm(store: Store, model: str, section: WatchSection) -> Verdict | None:
    """The newest verdict that asks for a round and was not dealt with, None when all is well."""
    done = set(state(store, model)["handled"])
    found = [one for one in verdicts.read(store, model) if is_alarm(one, section) and one.verdict_id not in done]
    return found[-1] if found else None


def is_alarm(verdict: Verdict, section: WatchSection) -> bool:
    """Serving asks for re-curation, or quality dropped by more than the limit; over enough judged requests, unless a
    person said so."""
    if verdict.decision == RECURATE and verdict.kind == MANUAL:
        return True
    dropped = verdict.drop is not None and verdict.drop > section.drop_max
    return (dropped or verdict.decision == RECURATE) and verdict.rows >= section.rows_min


def reason(verdict: Verdict) -> str:
    """The alarm in words."""
    where = f" on {verdict.slice}" if verdict.slice else ""
    moved = "" if verdict.drop is None else f" dropped by {verdict.drop:.1%}"
    return f"{verdict.metric} of version {verdict.version}{moved}{where} over {verdict.rows} requests ({verdict.kind})"


def state(store: Store, model: str) -> dict[str, Any]:
    """What watch remembers: `handled` verdict ids, and `last` (kind of round -> ms since 1970, UTC)."""
    return {"handled": [], "last": {}} | (store.read_record(PREFIX + model) or {})


def remember(store: Store, model: str, handled: Sequence[str] = (), last: Mapping[str, int] | None = None) -> None:
    """Add verdicts that were dealt with, and when rounds of a kind were `last` begun (UTC ms)."""
    known = state(store, model)
    both = [*known["handled"], *(one for one in handled if one not in known["handled"])]
    store.write_record(PREFIX + model, {"handled": both, "last": {**known["last"], **(last or {})}})


def handled_by(store: Store, model: str, verdict: Verdict, section: WatchSection) -> list[str]:
    """Ids of the alarms that a round for this verdict answers: itself and every earlier one."""
    return [one.verdict_id for one in verdicts.read(store, model) if is_alarm(one, section) and one.at <= verdict.at]
