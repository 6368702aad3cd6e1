"""Several challengers at a time, each an application of its own, with users on all of them and changes under load."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
MEET_S = 60.0  # for every arm to have answered somebody


@pytest.fixture(scope="module")
def versions(challenge: Callable[..., int]) -> tuple[str, str]:
    """Versions of the challenger and of `challenger-b`."""
    return str(challenge("1" * 16)), str(challenge("2" * 16, alias="challenger-b"))


@pytest.fixture(scope="module")
def live(serving: Callable[..., Any], versions: tuple[str, str]) -> Iterator[Any]:
    """Two gateways, the champion and two registered challengers, half of the units for each one's experiment."""
    experiment = ("units=0.5", "ramp=[0.25]", "others={challenger-b: 0.5}", "promote=never")
    knobs = [f"experiment.{knob}" for knob in experiment]
    with serving("replicas=2", "student_ms=2000.0", "total_ms=8000.0", *knobs) as live:
        yield live


def weights(state: dict[str, Any]) -> dict[str, tuple[str, float]]:
    return {arm["name"]: (arm["version"], arm["weight"]) for arm in state["arms"]}


def test_two_challengers_have_users_and_one_is_crowned_and_dethroned_and_no_request_fails(
    live: Any, load: Any, versions: tuple[str, str], questions: list[Any]
) -> None:
    first, second = versions
    with load(live.url, [question.body for question in questions], clients=4, pause_s=0.03) as asked:
        state = live.serving("split", "challenger=0.25", "challenger-b=0.2")
        assert weights(state) == {
            "champion": ("1", 0.55), "challenger": (first, 0.25), "challenger-b": (second, 0.2)
        }  # fmt: skip
        until = time.monotonic() + MEET_S
        while set(asked.versions) != {"1", first, second} and time.monotonic() < until:
            time.sleep(0.2)
        assert set(asked.versions) == {"1", first, second}
        killed = live.serving("kill", "challenger")
        assert weights(killed)["challenger"] == (first, 0.0)
        assert weights(live.serving("promote", "challenger-b")) == {
            "champion": (second, 1.0), "challenger": (first, 0.0)
        }  # fmt: skip
        assert weights(live.serving("rollback")) == {"champion": ("1", 1.0)}
    assert asked.wrong == []
    assert set(asked.seen) <= {200, 202}


@pytest.mark.parametrize(("share", "why"), [("challenger-c=0.1", "experiment.others"), ("challenger=0.6", "owns 0.5")])
def test_a_share_that_nobody_would_see_is_refused(live: Any, share: str, why: str) -> None:
    command = [sys.executable, "-m", "serving", "split", share, "--store", live.store, "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 2
    assert why in json.loads(ran.stdout)["message"]
