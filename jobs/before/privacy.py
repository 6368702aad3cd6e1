"""Personal data in seed rows by the user's policy: kept, masked, or the row set aside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from jobs.before.seeds import Found, Seed
from jobs.data.readers import DeadLetter

Policy = Literal["keep", "drop", "mask"]
POLICIES: tuple[Policy, ...] = ("keep", "drop", "mask")
TEXTS = ("text", "system", "response")  # and every turn of `messages`


def apply(found: Found, policy: Policy) -> tuple[Found, dict[str, int]]:
    """The rows as the policy leaves them, and per kind of personal data how often it was found; {} with `keep`.

    `drop` sets rows aside as `personal_data` with kinds and counts and never the data. Both other policies mask the
    messages of dead letters too, which quote the row. What is looked for is said in `cluster.pii`.
    """
    if policy == "keep":
        return found, {}
    from cluster import pii

    rows, total = [], Counter[str]()
    dead = [replace(letter, detail=pii.mask(letter.detail)) for letter in found.dead]
    for row in found.rows:
        kinds = Counter(span.kind for text in _texts(row) for span in pii.find(text))
        total += kinds
        if not kinds:
            rows.append(row)
        elif policy == "mask":
            rows.append(_masked(row, pii.mask))
        else:
            detail = ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items()))
            dead.append(DeadLetter(row.file, row.row, "personal_data", detail))
    return Found(rows, dead), dict(sorted(total.items()))


def _texts(row: Seed) -> list[str]:
    """Every text once: `text` is the last user turn of `messages`, where there are any."""
    if row.messages is None:
        return [text for name in TEXTS if (text := getattr(row, name)) is not None]
    contents = [turn["content"] for turn in json.loads(row.messages)]
    return contents if row.response is None else [*contents, row.response]


def _masked(row: Seed, mask: Callable[[str], str]) -> Seed:
    changes: dict[str, Any] = {name: mask(text) for name in TEXTS if (text := getattr(row, name)) is not None}
    if row.messages is not None:
        turns = [turn | {"content": mask(turn["content"])} for turn in json.loads(row.messages)]
        changes["messages"] = json.dumps(turns, ensure_ascii=False)
    return replace(row, **changes)
