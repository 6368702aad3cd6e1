"""The pages that are written from code leave nothing of it out, and their links lead to sections."""

import re

import pytest

from cluster.metrics import METRICS
from jobs.after import http_page, metrics_page
from serving.seams.problems import KINDS


@pytest.fixture(scope="module")
def api() -> str:
    return http_page.page()


def test_every_metric_stands_on_the_page_once_with_its_unit_and_meaning() -> None:
    rows = [line for line in metrics_page.page().splitlines() if line.startswith("| `ray_raydistill_")]
    assert len(rows) == len(METRICS)
    for metric, row in zip(METRICS.values(), rows, strict=True):
        assert row.startswith(f"| `{metric.exported}` | {metric.kind} | {metric.unit} | ")
        assert metric.meaning in row and all(f"`{label}`" in row for label in metric.labels)


def test_every_route_field_and_error_of_the_gateway_stands_on_the_page(api: str) -> None:
    document = http_page.openapi()
    routes = [f"### {method.upper()} {path}" for path, own in document["paths"].items() for method in own]
    assert len(routes) >= 11 and [line for line in api.splitlines() if line in routes] == routes
    for name, schema in document["components"]["schemas"].items():
        _, _, section = api.partition(f"### {name}\n")
        fields = re.findall(r"^\| `(\w+)` \|", section.partition("\n### ")[0], re.MULTILINE)
        assert fields == list(schema.get("properties", {})), name
    assert all(f"| `{code}` | {status} | {told} |" in api for code, (status, told) in KINDS.items())


def test_bounds_defaults_and_choices_are_told(api: str) -> None:
    assert "| `reward` | number or null | `null` | -1 (bad) to 1 (good); at least -1, at most 1 |" in api
    assert "| `detail` | `auto` or `low` or `high` | `auto` |" in api


@pytest.mark.parametrize("page", [http_page.page, metrics_page.page])
def test_links_within_a_page_lead_to_one_of_its_sections(page: object) -> None:
    text = page()  # type: ignore[operator]
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= sections
