"""Personal data is found by form and check digits: what is, what is not, and how well on the shared set."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import pii
from cluster.pii_kinds import Span, luhn, mod97
from jobs.data.filters import Rows
from jobs.data.filters import pii as dropping


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ann.o'neil+x@mail.example.org, please", "write to <EMAIL>, please"),
        ("see https://shop.example.com/a?b=1, or www.example.net.", "see <URL>, or <URL>."),
        ("the host is db7.example.co.uk now", "the host is <URL> now"),
        ("from 192.168.0.12 to 2001:db8::ff00:42:8329", "from <IP> to <IP>"),
        ("pay GB82 WEST 1234 5698 7654 32 today", "pay <IBAN> today"),
        ("card 4111 1111 1111 1111 and 5500-0000-0000-0004", "card <CARD> and <CARD>"),
        ("ssn 460-89-9847, my SSN is 460 89 9847", "ssn <SSN>, my SSN is <SSN>"),
        ("call +46 (0)8 928 571 38 or (602)272-9781x12", "call <PHONE> or <PHONE>"),
        ("call 541-714-1388.", "call <PHONE>."),
    ],
)
def test_what_names_a_person_is_masked_by_its_kind(text: str, masked: str) -> None:
    assert pii.mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "on 2006-04-07 09:00:27 or 12/1/1981, at 12:20:39",
        "version 1.2.3 of Node.js costs 1.234.567, not 3.1415926",
        "300.1.2.3 is no address, nor is std::vector",
        "card 4111 1111 1111 1112 fails its check",
        "GB82 WEST 1234 5698 7654 33 fails its check",
        "000-12-3456 and 666-12-3456 were never given out",
        "370 3911 Fourth Avenue, Porto 3610-114",
        "order 12345678 of 90 items, e.g. this one.Then more",
        "mail me @ home",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert pii.find(text) == []


def test_spans_do_not_overlap_and_kinds_can_be_chosen() -> None:
    text = "ann@example.org from 10.0.0.1"
    assert pii.find(text) == [Span(0, 15, "email"), Span(21, 29, "ip")]
    assert pii.find(text, ["ip"]) == [Span(21, 29, "ip")]
    with pytest.raises(ValueError, match="no detector of emial"):
        pii.find(text, ["emial"])


def test_a_detector_of_ones_own_is_asked_after_the_others() -> None:
    def name(text: str) -> list[Span]:
        return [Span(text.index("Ann"), text.index("Ann") + 3, "name")] if "Ann" in text else []

    assert pii.mask("Ann has ann@example.org", more=[name]) == "<NAME> has <EMAIL>"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_can_be_asked_and_is_whole_but_for_its_spans(text: str) -> None:
    spans = pii.find(text)
    ends = [(span.start, span.end) for span in spans]
    assert ends == sorted(ends) and all(start < end <= len(text) for start, end in ends)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
    if not spans:
        assert pii.mask(text) == text


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**14))
def test_one_changed_digit_breaks_a_card(number: int) -> None:
    body = f"4{number:014d}"
    digit = next(last for last in "0123456789" if luhn(body + last))
    wrong = str((int(digit) + 1) % 10)
    assert [span.kind for span in pii.find(f"it is {body}{digit} now")] == ["card"]
    assert not any(span.kind == "card" for span in pii.find(f"it is {body}{wrong} now"))


def test_every_social_security_number_that_can_have_been_given_out_is_found() -> None:
    rng = np.random.default_rng(0)
    areas = rng.integers(1, 900, 500)
    numbers = [f"{a:03d}-{rng.integers(1, 100):02d}-{rng.integers(1, 10000):04d}" for a in areas[areas != 666]]
    found = [pii.find(f"My number is {number}, thanks") for number in numbers]
    assert all([span.kind for span in spans] == ["ssn"] for spans in found)


def test_check_digits_are_those_of_the_standards() -> None:
    assert luhn("79927398713") and not luhn("79927398710")
    assert mod97("GB82WEST12345698765432") and not mod97("GB82WEST12345698765423")


@pytest.mark.timeout(10)
def test_long_runs_of_anything_cost_no_more_than_their_length() -> None:
    for text in (
        "a" * 100_000,
        "1 " * 50_000,
        "a." * 50_000,
        "1" * 100_000,
        ":" * 50_000,
        "@a." * 30_000,
        "(1" * 40_000,
    ):
        pii.find(text)


def test_a_row_with_personal_data_is_refused_by_kind_in_prompt_or_answer(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(
        ["call 541-714-1388 now", "hello", "who", "ann@example.org"],
        response=["ok", "at 10.0.0.1 or 10.0.0.2", None, ""],
    )
    told = dropping.pii(rows, dropping.Params())
    assert told.reasons == ["pii_phone", "pii_ip", None, "pii_email"]
    assert told.scores.tolist() == [1, 2, 0, 1]
