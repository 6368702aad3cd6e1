"""Sites that share soft labels alone: who holds what, what noise promises, and what a student learns from them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InputError
from cluster.recipe import Recipe, load
from cluster.store import Store
from jobs.training.federation import privacy, simulate, sites

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "teacher.params={stem: 8, widths: [12, 16], depths: [1, 1]}",
    "student.params={stem: 4, widths: [8, 12], strides: [1, 2]}",
    "fit.stages.0.min_steps=0",
    "fit.stages.0.epochs=12",
    "fit.batch_size=32",
    "distill.stages.0.min_steps=0",
    "distill.stages.0.epochs=30",
    "distill.batch_size=32",
]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.integers(2, 6),
    public=st.floats(0.1, 0.8),
    skew=st.sampled_from([0.05, 1.0, 100.0]),
)
def test_every_row_is_public_or_one_sites_and_no_site_is_empty(
    seed: int, count: int, public: float, skew: float
) -> None:
    target_R = np.random.default_rng(seed).integers(0, 5, 120)
    shared, held = sites.split(target_R, count, public, skew, seed)
    together = np.concatenate([shared, *held])
    assert sorted(together) == list(range(120))
    assert len(held) == count
    assert min(map(len, held)) >= sites.FEWEST
    again = sites.split(target_R, count, public, skew, seed)
    assert all(np.array_equal(one, other) for one, other in zip(held, again[1], strict=True))


def test_a_small_skew_deals_classes_to_few_sites_and_a_large_one_to_all() -> None:
    target_R = np.arange(4000) % 10

    def most(skew: float) -> float:
        _, held = sites.split(target_R, 4, 0.2, skew, 0)
        counts_SC = np.stack([np.bincount(target_R[rows], minlength=10) for rows in held])
        return float((counts_SC.max(0) / counts_SC.sum(0)).mean())

    assert most(0.1) > 0.75
    assert most(1000.0) < 0.3


def test_too_many_sites_for_the_rows_are_refused() -> None:
    with pytest.raises(InputError, match="too few rows"):
        sites.split(np.zeros(10, int), 5, 0.5, 1.0, 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_the_projection_is_the_nearest_probability_vector(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values_RC = draw.normal(0, 2, (3, 6))
    near_RC = privacy.onto_simplex(values_RC)
    assert np.allclose(near_RC.sum(1), 1) and (near_RC >= 0).all()
    for _ in range(20):
        other_RC = draw.dirichlet(np.ones(6), 3)
        assert (
            np.linalg.norm(values_RC - near_RC, axis=1) <= np.linalg.norm(values_RC - other_RC, axis=1) + 1e-9
        ).all()
    assert np.allclose(privacy.onto_simplex(near_RC), near_RC)


def test_the_mean_is_the_mean_and_sharpening_takes_back_its_flatness() -> None:
    releases_SRC = np.array([[[0.8, 0.2, 0.0]], [[0.4, 0.6, 0.0]]])
    mean_RC = sites.aggregate(releases_SRC, "mean")
    assert np.allclose(mean_RC, [[0.6, 0.4, 0.0]])
    sharp_RC = sites.aggregate(releases_SRC, "sharpened")
    assert np.isclose(sharp_RC.sum(), 1) and sharp_RC[0, 0] == pytest.approx(1 / (1 + math.exp(-2) + math.exp(-6)))


def test_the_noise_is_the_least_that_keeps_the_promise() -> None:
    for epsilon in (0.1, 1.0, 8.0, 100.0):
        moved = privacy.sensitivity(50)
        sigma = privacy.noise_for(epsilon, 1e-5, 50)
        assert privacy.delta_of(epsilon, sigma, moved) <= 1e-5 < privacy.delta_of(epsilon, 0.999 * sigma, moved)
    # Where the classic bound holds (epsilon < 1), the exact noise is less than it.
    assert privacy.noise_for(0.5, 1e-5, 1) < math.sqrt(2) * math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5
    assert privacy.noise_for(8.0, 1e-5, 400) == pytest.approx(20 * privacy.noise_for(8.0, 1e-5, 1), rel=1e-4)
    for epsilon, delta in ((0.0, 1e-5), (-1.0, 1e-5), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(InputError, match="no privacy budget"):
            privacy.noise_for(epsilon, delta, 1)


def test_the_stated_delta_is_what_two_neighbours_give_away() -> None:
    """The promise itself, measured: P(A) - e^epsilon Q(A) on the worst set A of the two noisy releases."""
    epsilon, sigma, moved = 1.0, 2.0, privacy.sensitivity(1)
    draw = np.random.default_rng(0).normal(0, sigma, 2_000_000)
    # Along the line between the neighbours the likelihood ratio passes e^epsilon at this point.
    border = epsilon * sigma**2 / moved - moved / 2
    inside, outside = (draw > border).mean(), (draw - moved > border).mean()
    assert inside - math.exp(epsilon) * outside == pytest.approx(privacy.delta_of(epsilon, sigma, moved), abs=2e-3)


def test_noise_differs_by_site_and_none_is_none() -> None:
    probabilities_RC = np.full((1000, 4), 0.25)
    one, other = (privacy.released(probabilities_RC, 0.5, seed) for seed in (1, 2))
    assert not np.allclose(one, other)
    assert one.std() == pytest.approx(0.5, rel=0.05)
    assert np.array_equal(privacy.released(probabilities_RC, 0.0, 1), probabilities_RC)


@pytest.fixture
def recipe() -> Recipe:
    return load("image_classification", SMALL)


@pytest.mark.slow
def test_the_sites_together_answer_better_than_each_alone_and_a_student_learns_from_that(
    recipe: Recipe, tmp_path: Path
) -> None:
    store = Store.open(tmp_path)
    made = simulate.run(recipe, store, simulate.Federation(sites=3, skew=1.0))
    facts = made.manifest.facts
    alone = [site["accuracy"] for site in facts["sites"]]
    assert facts["label_accuracy"] > max(alone), facts
    assert facts["student"]["accuracy"] > min(alone), facts  # a tenth of the size, and no true label was looked at
    assert facts["pooled"]["accuracy"] > facts["student"]["accuracy"]
    assert (facts["privacy"]["epsilon"], facts["privacy"]["sigma"]) == (None, 0.0)
    assert (made.path() / "hf" / "model.safetensors").is_file()
    assert simulate.run(recipe, store, simulate.Federation(sites=3, skew=1.0)).id == made.id
    sets = [word for one in SMALL for word in ("--set", one)]
    words = ["federate", "image_classification", "--sites", "3", "--skew", "1", "--store", str(tmp_path), *sets]
    command = [sys.executable, "-m", "jobs", *words]
    told = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    answer = json.loads(told.stdout)
    assert answer["federated"] == made.id and answer["label_accuracy"] == facts["label_accuracy"]
    people = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "is not bounded" in people.stdout + people.stderr


def test_a_strong_promise_over_many_rows_leaves_few_sites_nothing_to_say() -> None:
    truth_R = np.arange(400) % 10
    sure_RC = np.eye(10)[truth_R]
    for epsilon, best in ((1.0, 0.3), (8.0, 0.4)):
        sigma = privacy.noise_for(epsilon, 1e-5, len(truth_R))
        releases_SRC = np.stack([privacy.released(sure_RC, sigma, seed) for seed in range(3)])
        assert (sites.aggregate(releases_SRC, "mean").argmax(1) == truth_R).mean() < best


def test_what_is_no_federation_is_refused(recipe: Recipe) -> None:
    simulate.check(recipe, simulate.Federation())
    for wrong in ({"sites": 1}, {"public_share": 0.0}, {"skew": 0.0}, {"epsilon": 0.0}):
        with pytest.raises(InputError):
            simulate.check(recipe, simulate.Federation(**wrong))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="probabilities of classes"):
        simulate.check(load("digits"), simulate.Federation())
