"""The table of claims says what was measured, by how much a claim is missed, and what has not run."""

import json
from pathlib import Path
from typing import Any

from jobs.after import claims


def row(identifier: str, ours: float, **details: Any) -> dict[str, Any]:
    return {"id": identifier, "what": f"setting of {identifier}", "ours": ours, "details": details}


def by_claim(records: list[dict[str, Any]], run: dict[str, Any] | None = None) -> dict[str, list[str]]:
    return {says: rest for says, *rest in claims.rows({one["id"]: one for one in records}, run)}


RUN = {
    "recipe": {"name": "digits"}, "rows": 1500, "primary_metric": "exact_match", "retention": {"value": 0.95},
    "models": {"teacher": {"params": 1_200_000}, "student_int8": {"params": 300_000, "metrics": {"exact_match": 0.97}}},
}  # fmt: skip


def test_without_records_every_claim_is_not_measured() -> None:
    found = by_claim([])
    assert len(found) == len(claims.CLAIMS)
    assert {tuple(cells) for cells in found.values()} == {("its benchmark has not run", "–", "not measured")}


def test_a_claim_is_reached_or_its_gap_is_told() -> None:
    found = by_claim([row("images_25.6m_to_9.1m", 0.5), row("speed.cached_epoch", 1.5)], RUN)
    assert found["25.6M -> 9.1M parameters at -0.8 points"][1:] == ["0.50 points", "reached"]
    assert found["epochs 1.75x faster from cached logits"][1:] == ["1.50x", "0.25x short"]
    assert found["multimodal accuracy kept above 95 %"][1:] == ["97.0%", "reached"]
    assert found["96.8 % of the teacher's score"][2] == "1.8% short"
    lost = by_claim([row("images_25.6m_to_9.1m", 1.0)])
    assert lost["25.6M -> 9.1M parameters at -0.8 points"][2] == "0.20 points short"


def test_speed_and_size_count_only_where_the_accuracy_is_kept() -> None:
    fast = [row("text.a.faster", 30.0), row("text.b.faster", 5.0)]
    kept = [row("text.a.retention", 0.9, share_of_parameters=0.01),
            row("text.b.retention", 0.995, share_of_parameters=0.09)]  # fmt: skip
    found = by_claim([*fast, *kept])
    assert found["1.5x faster at no loss of accuracy"][1:] == ["5.00x", "reached"]
    assert found["90 % fewer parameters at >= 95 % retention"][1:] == ["91.0%", "reached"]
    assert by_claim(fast)["1.5x faster at no loss of accuracy"][2] == "not measured"


def test_the_page_is_made_of_the_files_in_docs(tmp_path: Path) -> None:
    assert claims.page(tmp_path).count("not measured") == len(claims.CLAIMS)
    (tmp_path / "benchmarks.json").write_text(json.dumps([row("text.banking77.smaller", 0.94)]))
    (tmp_path / "measured.json").write_text(json.dumps(RUN))
    page = claims.page(tmp_path)
    assert "| model 85 % smaller | setting of text.banking77.smaller | 94.0% | reached |" in page
    assert page.count("not measured") == len(claims.CLAIMS) - 3
