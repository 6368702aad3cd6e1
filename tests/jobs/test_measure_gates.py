"""Gates: a limit is a limit, what cannot be measured does not pass, and null switches one off."""

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.errors import GateFailed
from cluster.recipe import Gates
from jobs.measure import gates

REPORT: dict[str, Any] = {
    "models": {
        "teacher": {"metrics": {"exact_match": 0.96}},
        "student_int8": {"latency_ms": {"p95": 3.0}, "bytes": 700_000},
    },
    "primary_metric": "exact_match",
    "retention": {"value": 0.95},
    "int8": {"task_drop": 0.001, "agreement": 0.99, "logit_error": 0.004},
    "kv_share": 0.5,
    "param_share": 0.29,
    "speedup": 2.0,
    "control_gain": {"value": 0.03},
    "cost": {"engines": {"student_int8": {"rss_peak_bytes": 80_000_000}}},
    "golden": {"with_float": 1.0},
    "fairness": {"gap": 0.02},
    "licences": {"allows": True},
}


def one(name: str, limits: Mapping[str, Any], report: dict[str, Any] = REPORT) -> dict[str, Any]:
    return {gate["name"]: gate for gate in gates.judge(report, Gates.parse(limits), control=True)}[name]


def test_every_gate_of_the_recipe_is_checked() -> None:
    assert set(gates.CHECKS) == set(Gates.model_fields)


def test_a_good_report_passes_every_default_gate() -> None:
    judged = gates.judge(REPORT, Gates(), control=True)
    assert {gate["name"] for gate in judged} >= {
        "latency_p95_ms",
        "retention_min",
        "int8_drop_max",
        "kv_share_max",
        "above_control",
    }
    gates.refuse_failed(judged)


@pytest.mark.parametrize(
    ("name", "limit", "passed"),
    [
        ("retention_min", 0.95, True),
        ("kv_share_max", 0.5, True),
        ("latency_p95_ms", 3.0, False),
        ("above_control", 0.03, False),
        ("speedup_min", 2.1, False),
        ("memory_max_bytes", 80_000_000, False),
        ("golden_agreement_min", 1.0, True),
        ("fairness_gap_max", 0.01, False),
        ("licence_allows", True, True),
    ],
)
def test_at_its_limit_a_gate_keeps_to_its_rule(name: str, limit: float, passed: bool) -> None:
    assert one(name, {name: limit})["passed"] is passed


def test_null_switches_a_gate_off_and_no_control_arm_takes_its_gate_along() -> None:
    names = {gate["name"] for gate in gates.judge(REPORT, Gates(retention_min=None), control=False)}
    assert not names & {"retention_min", "above_control"} and "kv_share_max" in names


def test_what_cannot_be_measured_does_not_pass() -> None:
    gate = one("kv_share_max", {}, REPORT | {"kv_share": None})
    assert gate["value"] is None and gate["passed"] is False


def test_failed_gates_end_with_exit_code_3_and_name_their_numbers() -> None:
    judged = gates.judge(REPORT, Gates(retention_min=0.97, bytes_max=1000), control=True)
    with pytest.raises(
        GateFailed, match=r"(?s)retention_min: 0.95 \(limit 0.97\).*bytes_max: 700000 \(limit 1000\)"
    ) as error:
        gates.refuse_failed(judged)
    assert error.value.exit_code == 3


UNMEASURED = {"cost": None, "golden": None, "fairness": None, "licences": {"allows": None}}


def test_what_a_recipe_does_not_measure_is_left_out_with_its_reason_and_never_passed() -> None:
    report = REPORT | UNMEASURED
    absent = {"memory_max_bytes", "golden_agreement_min", "fairness_gap_max", "licence_allows"}
    assert not absent & {gate["name"] for gate in gates.judge(report, Gates(), control=True)}
    told = gates.left_out(report, Gates(fairness_gap_max=None), control=False)
    assert (
        set(told) == (absent - {"fairness_gap_max"}) | {"above_control"}
        and "fresh_requests" in told["memory_max_bytes"]
    )
    assert gates.left_out(REPORT, Gates(), control=True) == {}


def test_forbidding_terms_fail_their_gate() -> None:
    judged = gates.judge(REPORT | {"licences": {"allows": False}}, Gates(), control=True)
    with pytest.raises(GateFailed, match=r"licence_allows: False \(limit True"):
        gates.refuse_failed(judged)
