"""The recipe: what is refused and how it is said, extends, and --set."""

from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Section, Term, load
from cluster.recipe.load import RecipeLoader

Values = dict[str, Any]


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_values: Values) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe_values))
    return path


def refused(values: Values) -> str:
    with pytest.raises(RecipeError) as error:
        Recipe.parse(values)
    return str(error.value)


def test_an_unknown_key_names_its_full_path_the_nearest_key_and_the_known_ones(recipe_values: Values) -> None:
    recipe_values["distill"]["stages"][0]["learning_rat"] = 0.1
    message = refused(recipe_values)
    assert "unknown key distill.stages.0.learning_rat" in message
    assert "did you mean distill.stages.0.learning_rate?" in message
    assert "warmup_share" in message


@pytest.mark.parametrize(("name", "good"), [
    ("challenger-a", True), ("challenger-0_b-c", True), ("challenger-", False), ("challenger-A", False),
    ("challenger--a", False), ("challenger-" + 42 * "a", False), ("other", False),
])  # fmt: skip
def test_a_further_arms_name_may_be_its_alias_and_the_other_way_round(
    recipe_values: Values, name: str, good: bool
) -> None:
    named = {"experiment": {"units": 0.5, "others": {name: 0.5}, "ramp": [0.1]}}
    aliased = {"promote": {**recipe_values["promote"], "alias": name}}
    for changed in (named, aliased):
        if good:
            Recipe.parse({**recipe_values, **changed})
        else:
            assert name in refused({**recipe_values, **changed})


def test_an_unknown_key_at_the_top_names_the_sections(recipe_values: Values) -> None:
    recipe_values["exports"] = {}
    assert "did you mean export?" in refused(recipe_values)


def test_an_unknown_key_far_from_all_known_ones_gets_no_guess(recipe_values: Values) -> None:
    recipe_values["data"]["zzz"] = 1
    message = refused(recipe_values)
    assert "unknown key data.zzz" in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("seed",), "7", "a valid integer"),
        (("seed",), True, "a valid integer"),
        (("distill", "batch_size"), 1.5, "a valid integer"),
        (("distill", "stages", 0, "epochs"), "two", "a valid number"),
        (("distill", "stages", 0, "epochs"), 0, "greater than 0"),
        (("task",), "regression", "'visual_qa', 'text_classification'"),
        (("data", "classes"), [1.5], "a valid string or a valid integer"),
        (("teacher",), [], "a valid dictionary"),
        (("data", "validation_share"), float("nan"), "a finite number"),
    ],
)
def test_a_wrong_value_names_path_got_and_expected(
    recipe_values: Values, path: tuple[Any, ...], value: Any, expected: str
) -> None:
    here: Any = recipe_values
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    message = refused(recipe_values)
    assert ".".join(map(str, path)) + (".0" if path[-1] == "classes" else "") + " is wrong" in message
    assert repr(value[0] if value and isinstance(value, list) else value) in message
    assert expected in message


def test_a_missing_section_is_named(recipe_values: Values) -> None:
    del recipe_values["teacher"]
    assert "teacher is required" in refused(recipe_values)


def test_all_problems_are_told_at_once(recipe_values: Values) -> None:
    recipe_values["sed"] = 1
    recipe_values["distill"]["batch_size"] = 0
    message = refused(recipe_values)
    assert "2 problems" in message
    assert "did you mean seed?" in message
    assert "distill.batch_size" in message


def test_a_fit_that_is_on_without_stages_is_refused(recipe_values: Values) -> None:
    recipe_values["fit"] = {"enabled": True}
    assert "at least one stage in fit.stages" in refused(recipe_values)


def test_bf16_without_zero_is_refused(recipe_values: Values) -> None:
    recipe_values["distill"]["engine"] = {"precision": "bf16", "zero_stage": 0}
    assert "distill.engine does not work" in refused(recipe_values)


def test_a_recipe_is_frozen(recipe_values: Values) -> None:
    recipe = Recipe.parse(recipe_values)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_the_params_of_a_term_are_checked_by_its_own_section_under_their_path() -> None:
    class Kl(Section):
        temperature: float = 1.0

    term = Term.parse({"name": "kl", "params": {"temprature": 4}})
    with pytest.raises(RecipeError, match=r"unknown key distill\.stages\.0\.losses\.0\.params\.temprature") as error:
        Kl.parse(term.params, at="distill.stages.0.losses.0.params")
    assert "did you mean distill.stages.0.losses.0.params.temperature?" in str(error.value)


def every_field(model: type[pydantic.BaseModel], at: str = "") -> list[tuple[str, Any]]:
    found = [(f"{at}{name}", field) for name, field in model.model_fields.items()]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            found += every_field(field.annotation, f"{at}{name}.")
    return found


@pytest.mark.parametrize(("path", "field"), every_field(Recipe))
def test_every_knob_is_described(path: str, field: Any) -> None:
    assert field.description, path


def test_set_reaches_lists_free_params_and_sections_that_the_file_leaves_out(recipe_file: Path) -> None:
    recipe = load(
        str(recipe_file),
        [
            "distill.stages.1.epochs=3",
            "distill.stages.0.losses.0.params.temperature=4",
            "evaluate.gates.kv_share_max=null",
            "data.classes=[a, 2]",
            "fit.engine.workers=2",
            "resources.cpus=1",
        ],
    )
    assert recipe.distill.stages[1].epochs == 3.0
    assert recipe.distill.stages[0].losses[0].params == {"temperature": 4}
    assert recipe.evaluate.gates.kv_share_max is None
    assert recipe.evaluate.gates.retention_min == 0.95
    assert recipe.data.classes == ["a", 2]
    assert recipe.fit.engine.workers == 2
    assert not recipe.fit.enabled


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distill.stage.0.epochs=3", "did you mean distill.stages?"),
        ("distill.stages.0.epoch=3", "did you mean distill.stages.0.epochs?"),
        ("distill.stages.2.epochs=3", "an index from 0 to 1 of distill.stages"),
        ("distill.stages.last.epochs=3", "an index from 0 to 1"),
        ("name.x=3", "name has nothing below it"),
        ("seed", "--set a.b=c"),
        ("=3", "--set a.b=c"),
        ("data.train=[", "not valid YAML"),
        ("seed=no", "seed is wrong"),
    ],
)
def test_a_bad_override_says_what_instead(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(str(recipe_file), [override])
    assert message in str(error.value)


@given(st.floats(min_value=1e-9, max_value=0.99))
def test_a_learning_rate_reads_as_the_float_it_is_however_python_writes_it(rate: float) -> None:
    for text in (repr(rate), f"{rate:e}", f"{rate:.17E}"):
        assert yaml.load(text, RecipeLoader) == float(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 0.003),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2", -2),
        ("1_000", 1000),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("", None),
        ("~", None),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("7b", "7b"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_yaml_means_what_people_mean(text: str, value: Any) -> None:
    read = yaml.load(text, RecipeLoader)
    assert read == value
    assert type(read) is type(value)


def test_reading_recipes_changes_nothing_for_other_users_of_yaml() -> None:
    assert yaml.safe_load("no") is False


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(RecipeError, match="key 'seed' is given twice"):
        load(str(path))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "not a recipe"), ("", "not a recipe")]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load(str(path))


def test_an_unknown_recipe_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(RecipeError, match="no recipe digitz"):
        load("digitz")


@pytest.mark.usefixtures("recipe_file")
def test_extends_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    (tmp_path / "middle.yaml").write_text("extends: small\ndistill: {batch_size: 8}\nstudent: {params: {heads: 4}}\n")
    (tmp_path / "deep").mkdir()
    top = tmp_path / "deep" / "top.yaml"
    top.write_text(
        "extends: ../middle.yaml\nname: top\n"
        "distill: {stages: [{name: one, epochs: 1, learning_rate: 1e-3, losses: [{name: kl}]}]}\n"
    )
    recipe = load(str(top))
    assert recipe.name == "top"
    assert recipe.distill.batch_size == 8
    assert [stage.name for stage in recipe.distill.stages] == ["one"]
    assert recipe.student.params == {"layers": 2, "heads": 4}
    assert recipe.task == "text_classification"


def test_extends_in_a_circle_is_refused_and_the_circle_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        load(str(tmp_path / "a.yaml"))


def test_extends_of_nothing_and_of_no_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("extends: [b]\n")
    with pytest.raises(RecipeError, match="extends is wrong"):
        load(str(path))
    path.write_text("extends: nowhere\n")
    with pytest.raises(RecipeError, match="no recipe nowhere"):
        load(str(path))
