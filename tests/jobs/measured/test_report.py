"""The report for people: found by run, by id or as the latest; a table in the terminal; a page that needs nobody."""

import html as entities
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.errors import ArtifactMissing
from cluster.store import Artifact, Store
from jobs.after import page, wording
from jobs.after.report import read_report, show
from jobs.measure import exam


class Links(HTMLParser):
    """Collects every address that a browser would ask for, and the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.append(value)


def html(report: Artifact) -> str:
    return (report.path() / "report.html").read_text()


def test_the_page_asks_nobody_for_anything(report: Artifact) -> None:
    links = Links()
    links.feed(html(report))
    assert links.addresses and all(address.startswith(("#", "data:image/png;base64,")) for address in links.addresses)
    assert not re.search(r"@import|<script|<link|url\((?!#)", html(report))
    assert len(links.ids) == len(set(links.ids))


FRAME = """<!doctype html><iframe id=f width=%d height=9000 style=border:0 srcdoc="%s"></iframe><script>
f.onload = () => {
  const d = f.contentDocument, small = [...d.querySelectorAll("p, td, li")].filter(
    (one) => one.textContent.trim() && parseFloat(getComputedStyle(one).fontSize) < 11);
  document.title = d.documentElement.scrollWidth + " wide, " + small.length + " too small";
};</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk(
    report: Artifact, tmp_path: Path, browse: Callable[..., str], width: int
) -> None:
    """Asked within a frame of that width: a headless window is never narrower than 500 pixels."""
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % (width, entities.escape(html(report))))
    found = re.search(r"<title>(\d+) wide, (\d+) too small</title>", browse(frame.as_uri(), 1400, "--dump-dom"))
    assert found
    assert int(found[1]) <= width
    assert int(found[2]) == 0


def test_the_page_shows_every_part_and_the_pictures_of_wrong_answers(report: Artifact) -> None:
    text = html(report)
    for part in (
        "What each stage did",
        "Realised loss shares",
        "Training loss",
        "What the student learned from",
        "Does confidence",
        "Gates",
        "Where it is right",
        "Wrong answers",
    ):
        assert part in text
    assert text.count("<svg") >= 7 and "data:image/png;base64," in text
    assert 'name="viewport"' in text and report.id in text


def test_what_a_user_wrote_cannot_become_markup(report: Artifact, tiny_run: Any) -> None:
    values = dict(read_report(tiny_run.store, report.id).values)
    values["run"] = "<script>alert(1)</script>"
    wrong = [
        {"text": "<b>q</b>", "images": [], "slice": "s", "truth": "<i>", "answer": "", "confidence": 0.5, "others": {}}
    ]
    text = page.render(values, {}, wrong)
    assert "<script" not in text and "<b>q" not in text and "&lt;b&gt;q" in text


def test_wrong_examples_are_wrong_and_come_from_every_slice(report: Artifact, tiny_run: Any) -> None:
    from jobs import tasks

    rows = exam.of(tasks.of(tiny_run.recipe).requests("test"), None, 0)
    table = pq.read_table(report.path() / "predictions.parquet")
    shown = page.examples(rows, table, 6)
    assert len(shown) == 6 and all(one["answer"] != one["truth"] for one in shown)
    missed = {
        slice_
        for slice_, truth, given in zip(rows.slices, rows.truth, table["student_int8"].to_pylist(), strict=True)
        if truth != given
    }
    assert len({one["slice"] for one in shown}) == min(6, len(missed))


def test_a_report_is_found_as_the_latest_by_its_run_and_by_its_id(report: Artifact, tiny_run: Any) -> None:
    store = tiny_run.store
    by_id = read_report(store, report.id)
    store.write_record(f"runs/{by_id.values['run']}", {"artifacts": {"report": report.id}})
    assert read_report(store, by_id.values["run"]).folder == by_id.folder
    newest = store.list("report")[-1]
    assert read_report(store).folder == newest.path()


def test_an_unknown_run_is_refused_with_the_runs_that_are_there(tiny_run: Any, store: Store) -> None:
    tiny_run.store.write_record("runs/digits-unfinished", {"artifacts": {}})
    with pytest.raises(ArtifactMissing, match="digits-unfinished"):
        read_report(tiny_run.store, "no-such-run")
    with pytest.raises(ArtifactMissing, match="evaluate RECIPE"):
        read_report(tiny_run.store, "digits-unfinished")
    with pytest.raises(ArtifactMissing, match="jobs run RECIPE"):
        read_report(store)


def test_the_table_names_models_numbers_gates_and_where_the_page_lies(report: Artifact, tiny_run: Any) -> None:
    from rich.console import Console

    stream = io.StringIO()
    found = read_report(tiny_run.store, report.id)
    Console(file=stream, width=160).print(show(found))
    text = stream.getvalue()
    for name in (*wording.MODELS.values(), "exact match", "KV B/token", "p95", "retention", "kv_share_max", "passed"):
        assert name in text
    assert str(found.folder / "report.html") in text.replace("\n", "")


def test_gates_are_written_in_the_unit_that_their_name_says() -> None:
    said = {
        ("latency_p95_ms", 1.26): "1.26 ms", ("memory_max_bytes", 78_696_448): "78.7 MB", ("retention_min", 0.993):
        "99.3 %", ("int8_drop_max", 0.0004): "0.04 %", ("speedup_min", 1.64): "1.6x", ("above_control", 0.0316):
        "+3.2 points", ("licence_allows", True): "yes", ("teacher_metric_min", 0.987): "0.987", ("kv_share_max", None):
        wording.DASH,
    }  # fmt: skip
    assert {key: wording.limit(*key) for key in said} == said
    money = {1.35e-05: "0.0000135", 0.0107: "0.0107", 2.5: "2.50", 0.0: "0", 12_345.6: "12,346"}
    assert {value: wording.money(value) for value in money} == money


def test_numbers_are_written_as_people_read_them() -> None:
    assert [wording.percent(0.9734), wording.percent(None), wording.points(0.021)] == [
        "97.3 %",
        wording.DASH,
        "+2.1 points",
    ]
    assert [wording.count(470_000), wording.count(88), wording.size(1_620_000), wording.size(88)] == [
        "470 k",
        "88",
        "1.62 MB",
        "88 B",
    ]
    assert [wording.milliseconds(0.0066), wording.milliseconds(1.234), wording.milliseconds(101.4)] == [
        "0.0066 ms",
        "1.23 ms",
        "101 ms",
    ]
    assert [wording.seconds(7.24), wording.seconds(75.2), wording.plain(0.97345), wording.plain(3072)] == [
        "7.2 s",
        "1 min 15 s",
        "0.973",
        "3,072",
    ]
