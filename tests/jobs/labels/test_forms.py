"""Every form of soft labels: what is stored adds up, what is drawn is unbiased, and a seed repeats it byte for byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import schema
from cluster.recipe.labels import LabelsSection
from jobs.data import labels as forms
from jobs.data.labels import checks, entropy, hidden, reader, sampled, top_k

SPARSE = ("sampled", "top_k", "top_k_sampled")
V = 300


def logits(seed: int, positions: int = 5, vocabulary: int = V, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (positions, vocabulary)).astype(np.float32)


def row_of(given: np.ndarray, seed: int = 0, **changes: Any) -> dict[str, Any]:
    packed = forms.pack(given, LabelsSection.parse(changes), seed)
    return {"sample_id": f"{seed:016x}", **packed}


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return schema.conform(pa.Table.from_pylist(rows, schema.schema("soft_labels")), "soft_labels")


def test_auto_is_dense_up_to_the_limit_and_sampled_above() -> None:
    section = LabelsSection(dense_limit=10)
    assert (forms.form_of(section, 10), forms.form_of(section, 11)) == ("dense", "sampled")
    assert forms.form_of(LabelsSection(form="top_k"), 10) == "top_k"


@pytest.mark.parametrize("form", sorted(forms.FORMS))
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_row_passes_every_check_and_survives_the_disk(form: str, temperature: float, tmp_path: Path) -> None:
    rows = [row_of(logits(seed), seed, form=form, temperature=temperature) for seed in range(4)]
    table = table_of(rows)
    reader.write(table, tmp_path / "labels.parquet")
    back = pq.read_table(tmp_path / "labels.parquet")
    assert back.equals(table)
    for row in back.to_pylist():
        assert [name for name, holds in checks.CHECKS.items() if not holds(row)] == []


@pytest.mark.parametrize("form", sorted(forms.FORMS))
def test_a_seed_repeats_the_bytes_and_step_by_step_gives_the_same_row(form: str) -> None:
    given = logits(3)
    section = LabelsSection(form=form, temperature=2.0)
    whole = table_of([{"sample_id": "0" * 16, **forms.pack(given, section, 7)}])
    again = table_of([{"sample_id": "0" * 16, **forms.pack(given, section, 7)}])
    steps = forms.StepPacker(section, [9, 7])
    for logits_V in given:
        steps([1], logits_V[None], None)
    stepped = table_of([{"sample_id": "0" * 16, **steps.packed(1)}])
    assert whole.equals(again) and whole.equals(stepped)


@pytest.mark.parametrize("form", SPARSE)
def test_stored_logits_are_those_of_their_ids(form: str) -> None:
    given = logits(1)
    row = row_of(given, form=form, temperature=2.0, logit_step=0.0625)
    relative = given - given.max(-1, keepdims=True)
    own = relative[np.repeat(np.arange(len(given)), row["entries"]), row["ids"]]
    assert np.abs(row["logits"].astype(np.float32) - own).max() <= 0.0625 / 2 + 0.01
    np.testing.assert_allclose(row["log_sum_exp"], np.log(np.exp(relative).sum(-1)), rtol=1e-5)
    np.testing.assert_allclose(row["log_sum_exp_t"], np.log(np.exp(relative / 2).sum(-1)), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 30), st.integers(1, 400), st.floats(0.25, 8))
def test_top_k_tail_is_never_below_zero_and_exactly_zero_for_the_whole_vocabulary(
    seed: int, scale: float, k: int, temperature: float
) -> None:
    row = row_of(logits(seed, 2, V, scale), form="top_k", likeliest=k, temperature=temperature)
    for name in ("tail", "tail_t"):
        if row[name] is not None:
            assert row[name].dtype == np.float32 and (row[name] >= 0).all() and (row[name] <= 1).all()
            assert k < V or (row[name] == 0).all()


def test_a_tiny_tail_keeps_its_digits() -> None:
    given = np.concatenate([np.zeros((1, 2)), np.full((1, 100), -30.0)], 1).astype(np.float32)
    row = row_of(given, form="top_k", likeliest=2)
    assert row["tail"][0] == pytest.approx(100 * np.exp(-30.0) / 2, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 60), st.sampled_from(["systematic", "independent"]))
def test_draws_are_all_there_and_never_of_a_token_without_mass(seed: int, scale: float, scheme: Any) -> None:
    weight = np.exp(logits(seed, 1, 50, scale)[0].astype(np.float64) - 5 * scale)
    weight[::3] = 0.0
    if not weight.any():
        return
    section = LabelsSection(draws=64, scheme=scheme)
    ids, counts = sampled.draw(weight, section, np.random.default_rng(seed))
    assert counts.sum() == 64 and (np.diff(ids) > 0).all() and (weight[ids] > 0).all()
    if scheme == "systematic":
        expected = 64 * weight[ids] / weight.sum()
        assert (np.abs(counts - expected) < 1 + 1e-9).all()


@pytest.mark.parametrize("scheme", ["systematic", "independent"])
def test_the_mean_count_is_the_probability(scheme: Any) -> None:
    weight = np.array([0.5, 0.25, 0.15, 0.05, 0.03, 0.02])
    section, total = LabelsSection(draws=8, scheme=scheme), np.zeros(6)
    for seed in range(1500):
        ids, counts = sampled.draw(weight, section, np.random.default_rng(seed))
        total[ids] += counts
    np.testing.assert_allclose(total / 1500 / 8, weight, atol=0.015)


def test_the_likeliest_are_the_largest_logits() -> None:
    given = logits(2)
    kept = top_k.likeliest(given, 10)
    assert all(set(kept[place]) == set(np.argsort(-given[place])[:10]) for place in range(len(given)))
    assert top_k.likeliest(given, V + 5).shape == (len(given), V)


def test_entropy_agrees_with_its_definition() -> None:
    given = logits(4)
    p = np.exp(given.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(entropy(given - given.max(-1, keepdims=True)), -(p * np.log(p)).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8)])
def test_hidden_states_of_one_or_more_layers_come_back_within_half_a_step(shape: tuple[int, ...]) -> None:
    states = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    packed = hidden.pack(states)
    back = hidden.unpack(packed["hidden"], packed["hidden_scale"], 4)
    step = packed["hidden_scale"].reshape(4, -1)[..., None]
    assert packed["hidden"].dtype == np.int8
    assert (np.abs(back - states.reshape(back.shape)) <= step / 2 + 1e-6).all()


def test_nan_logits_are_refused() -> None:
    given = logits(0)
    given[2, 3] = np.nan
    with pytest.raises(ValueError, match="not_finite"):
        row_of(given)


@pytest.mark.parametrize(
    ("column", "spoil"),
    [
        ("ids", lambda row: row["ids"].__setitem__(1, 0)),
        ("ids", lambda row: row["ids"].__setitem__(-1, V)),
        ("counts", lambda row: row["counts"].__setitem__(0, row["counts"][0] + 1)),
        ("entries", lambda row: row["entries"].__setitem__(0, row["entries"][0] + 1)),
        ("log_sum_exp", lambda row: row["log_sum_exp"].__setitem__(0, -3.0)),
        ("entropy", lambda row: row["entropy"].__setitem__(0, 90.0)),
    ],
)
def test_a_spoiled_row_fails_a_check(column: str, spoil: Any) -> None:
    row = table_of([row_of(logits(0), form="sampled")]).to_pylist()[0]
    assert all(holds(row) for holds in checks.CHECKS.values())
    spoil(row)
    assert [name for name, holds in checks.CHECKS.items() if not _holds(holds, row)], column


def _holds(check: Any, row: dict[str, Any]) -> bool:
    try:
        return bool(check(row))
    except ValueError:  # arrays that no longer fit each other
        return False
