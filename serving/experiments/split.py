"""Which arm answers a unit: sticky by a salted hash, and experiments that do not mix.

A unit is whoever must always meet the same arm (a user, a key, a session). Pure and stateless: two replicas that
know the same arms and salt agree without talking.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.seams.observe import CHAMPION, Arm

PLACES = float(1 << 64)


def number(salt: str, unit: str) -> int:
    """A hash of the unit, uniform on 0..2^64-1, independent from salt to salt (BLAKE2b, keyed by the salt)."""
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8, key=_key(salt)).digest())


@functools.lru_cache(maxsize=64)
def _key(salt: str) -> bytes:
    return hashlib.blake2b(salt.encode(), digest_size=32).digest()


def place(salt: str, unit: str) -> float:
    """`number` as a point of [0, 1)."""
    return (number(salt, unit) >> 11) / (1 << 53)


@dataclass(frozen=True)
class Trial:
    """An experiment's own units: those whose place in the service lies in [start, end), and the arm it tries there.

    Its control is the champion on the rest of the same units, never the champion elsewhere.
    """

    name: str
    arm: str
    start: float
    end: float

    @property
    def units(self) -> float:
        """Share of all units that the experiment owns (0..1)."""
        return self.end - self.start


@dataclass(frozen=True)
class Chosen:
    """An arm, and the experiment whose unit this is; None outside all experiments."""

    arm: str
    experiment: str | None


def trials(shares: Mapping[str, float], arms: Mapping[str, str]) -> tuple[Trial, ...]:
    """One trial after the other on [0, 1): `shares` gives each experiment's share of all units, `arms` its arm.

    Raises ValueError when the shares are more than there is.
    """
    made, start = [], 0.0
    for name, share in shares.items():
        made.append(Trial(name, arms[name], start, start + share))
        start += share
    if start > 1 + 1e-9:
        raise ValueError(f"experiments own {start:.3g} of the units, expected at most 1 together")
    return tuple(made)


class Split:
    """Assigns units to arms. A unit's place within its experiment is drawn with a salt of that experiment's own, so
    that who gets the challenger in one says nothing about any other; a larger share only moves units *to* it."""

    def __init__(self, arms: Sequence[Arm], salt: str, trials: Sequence[Trial]) -> None:
        """`weight` of an arm is its share of all units; more than its experiment owns counts as all of these.

        An arm that no trial names answers nobody (it may be asked as a shadow).
        """
        self._salt = salt
        weights = {arm.name: arm.weight for arm in arms}
        self._trials = tuple(trials)
        self._shares = {
            trial.name: min(1.0, weights[trial.arm] / trial.units) if trial.arm in weights and trial.units else 0.0
            for trial in self._trials
        }

    def choose(self, unit: str) -> Chosen:
        """The unit's arm and experiment; a few microseconds."""
        if not self._trials:
            return Chosen(CHAMPION, None)
        where = place(self._salt, unit)
        for trial in self._trials:
            if trial.start <= where < trial.end:
                within = place(f"{self._salt}/{trial.name}", unit)
                arm = trial.arm if within < self._shares[trial.name] else CHAMPION
                return Chosen(arm, trial.name)
        return Chosen(CHAMPION, None)

    def shares(self, experiment: str) -> dict[str, float]:
        """What an experiment's units are asked to be split into, champion first; together 1. Raises KeyError."""
        share = self._shares[experiment]
        arm = next(trial.arm for trial in self._trials if trial.name == experiment)
        return {CHAMPION: 1 - share, arm: share}
