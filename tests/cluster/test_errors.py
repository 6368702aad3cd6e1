"""The exception tree: exit codes, readable messages, and attributes that survive the way from a Ray worker."""

import pickle

import pytest

from cluster import errors

EXAMPLES = [
    errors.RaydistillError("plain"),
    errors.InputError("what", got=3, expected="four", hint="do this"),
    errors.RecipeError("unknown key distill.epoch", expected="one of a, b"),
    errors.DataError("no rows", got="train.parquet"),
    errors.MismatchError("vocabularies differ", got=77, expected=10),
    errors.ResourceError("disk is full", got="1 GB", expected="2 GB"),
    errors.ArtifactMissing("student", "0123456789abcdef", hint="run distill"),
    errors.ArtifactCorrupt("student/01", "model.safetensors", got="aa", expected="bb"),
    errors.ArtifactMismatch("samples", "column logits", got="int8", expected="halffloat"),
    errors.AliasConflict("digits", "champion", got=None, expected=2),
    errors.StepFailed("generate", "the teacher is gone", "start it"),
    errors.RayNotStarted(got="no raylet", expected="one within 30 s", hint="try again"),
    errors.GateFailed([("retention_min", 0.9, 0.95), ("latency_p95_ms", None, 100.0)]),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_from_pickle_with_its_message_and_attributes(error: errors.RaydistillError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__
    assert back.exit_code == error.exit_code


def test_a_value_that_cannot_be_pickled_travels_as_its_text() -> None:
    value = (number for number in range(3))
    back = pickle.loads(pickle.dumps(errors.InputError("what", got=value)))
    assert back.got == str(value)


def test_every_error_of_the_tree_is_in_the_module_docstring_under_its_exit_code() -> None:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    for one in classes:
        assert one.__name__ in (errors.__doc__ or "")
    assert {one.__name__: one.exit_code for one in classes if issubclass(one, errors.InputError)} == dict.fromkeys(
        ("InputError", "RecipeError", "DataError", "MismatchError", "ResourceError"), 2
    )
    assert errors.GateFailed([]).exit_code == 3


def test_an_input_error_says_what_got_expected_and_hint_on_lines_of_their_own() -> None:
    text = str(errors.InputError("too many classes", got=78, expected=77, hint="set data.classes"))
    assert text.splitlines() == ["too many classes", "  got: 78", "  expected: 77", "  hint: set data.classes"]


def test_a_failed_gate_lists_name_value_and_limit() -> None:
    assert "retention_min: 0.9 (limit 0.95)" in str(errors.GateFailed([("retention_min", 0.9, 0.95)]))
