"""What names a run: the fingerprint of a recipe, and the hash of one of its sections."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.recipe import Recipe, load

Values = dict[str, Any]


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: shuffled(value[key], rng) for key in keys}
    return [shuffled(item, rng) for item in value] if isinstance(value, list) else value


@settings(deadline=None)  # other work on the same cores is no failure
@given(rng=st.randoms(use_true_random=False))
def test_the_fingerprint_is_of_the_content_whatever_the_order_of_keys(rng: random.Random) -> None:
    recipe = Recipe.parse(FINGERPRINTED)
    again = Recipe.parse(shuffled(json.loads(json.dumps(recipe.model_dump())), rng))
    assert again.fingerprint() == recipe.fingerprint()
    assert again.section_hash("data", "seed") == recipe.section_hash("seed", "data")


FINGERPRINTED: Values = {
    "name": "f",
    "task": "visual_qa",
    "data": {"source": "digits", "params": {"b": 1, "a": [1, 2]}},
    "teacher": {"architecture": "omni"},
    "student": {"architecture": "omni", "params": {"x": {"z": 1, "y": 2}}},
    "distill": {
        "stages": [
            {"name": "s", "epochs": 1, "learning_rate": 0.1, "losses": [{"name": "kl", "params": {"b": 1, "a": 2}}]}
        ]
    },
    "promote": {"model_name": "f"},
}


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("resources.cpus=1", True),
        ("serving.port=8123", True),
        ("serving.host=0.0.0.0", True),
        ("promote.tracking_uri=http://x", True),
        ("distill.engine.max_failures=5", True),
        ("description=words", True),
        ("seed=1", False),
        ("student.params.x.y=3", False),
        ("serving.student_ms=400", False),
        ("distill.stages.0.epochs=1.0", True),
    ],
)
def test_the_fingerprint_changes_with_what_is_made_and_not_with_where(
    tmp_path: Path, override: str, same: bool
) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(json.dumps(FINGERPRINTED))
    assert (load(str(path), [override]).fingerprint() == load(str(path)).fingerprint()) is same


def test_a_section_hash_is_of_that_section_alone() -> None:
    recipe, other = Recipe.parse(FINGERPRINTED), Recipe.parse({**FINGERPRINTED, "seed": 5})
    assert recipe.section_hash("student") == other.section_hash("student")
    assert recipe.section_hash("student", "seed") != other.section_hash("student", "seed")
    assert recipe.part("seed") == {"seed": 0}
    with pytest.raises(KeyError):
        recipe.part("resources")
