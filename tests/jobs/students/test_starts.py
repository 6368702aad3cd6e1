"""Students cut from a teacher: what stays is the teacher's, unmodified transformers loads it, it trains and exports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cluster.errors import MismatchError, RecipeError
from cluster.recipe import Recipe
from jobs import tasks
from jobs.training import students, table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from jobs.training.stages.layer_map import linear_cka
from jobs.training.students import STARTS, pruned, teacher_layers, upcycled
from jobs.training.students.importance import magnitude, taylor
from jobs.training.students.shape import of_config, of_section
from jobs.training.students.source import Source

NARROW = {
    "encoder": {"hidden_size": 16, "heads": 2, "inner_size": 20},
    "decoder": {"hidden_size": 20, "heads": 2, "inner_size": 20},
}


def scored(source: Source, network: nn.Module) -> torch.Tensor:
    """Logits of a few training rows."""
    batch = next(source.batches(8))
    with torch.no_grad():
        logits_QV, _ = source.task.scored(network.eval(), batch)
    return logits_QV


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_all_layers_are_the_teacher_itself(source_of: Callable[[str], Source], architecture: str) -> None:
    source = source_of(architecture)
    again = teacher_layers.keep(source, [1, 2, 3, 4])
    assert torch.equal(scored(source, source.network), scored(source, again))


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_kept_layers_are_the_ones_asked_for_and_the_rest_is_the_teachers(
    source_of: Callable[[str], Source], architecture: str
) -> None:
    source = source_of(architecture)
    cut = Source(source.task, teacher_layers.keep(source, [2, 4]), 0)
    assert len(cut.blocks) == cut.config.num_hidden_layers == 2
    for own, number in zip(cut.blocks, (1, 3), strict=True):
        for ours, theirs in zip(own.parameters(), source.blocks[number].parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert len(source.blocks) == 4


def test_layers_are_chosen_evenly_or_by_how_much_they_change() -> None:
    assert teacher_layers.uniform(12, 4) == [3, 6, 9, 12]
    assert teacher_layers.uniform(6, 4) == [2, 3, 5, 6]
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((64, 8)), rng.standard_normal((64, 8))
    states = [one, one + 0.01 * other, other, other * 1.01, other + one]
    for likeness in (linear_cka, teacher_layers.correlation):
        assert teacher_layers.changing(states, 3, likeness) == [1, 3, 5]


@pytest.mark.parametrize("choose", ["cka", "correlation"])
def test_a_layer_that_does_nothing_is_the_first_to_go(source_of: Callable[[str], Source], choose: str) -> None:
    source = source_of("decoder")
    for name, parameter in source.blocks[2].named_parameters():
        if name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            nn.init.zeros_(parameter)
    cut = teacher_layers.make(source, teacher_layers.Params.parse({"count": 3, "choose": choose, "rows": 16}))
    assert torch.equal(scored(source, source.network), scored(source, cut))


@pytest.mark.parametrize("by", ["magnitude", "taylor"])
@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_a_pruned_student_has_the_sizes_and_the_teachers_weights(
    source_of: Callable[[str], Source], architecture: str, by: str
) -> None:
    source = source_of(architecture)
    cut = pruned.make(source, pruned.Params.parse({**NARROW[architecture], "by": by, "rows": 16}))
    shape = of_config(cut.config)
    assert {name: getattr(shape, name) for name in NARROW[architecture]} == NARROW[architecture]
    assert shape.head_dim == of_config(source.config).head_dim
    assert torch.isfinite(scored(source, cut)).all()
    values = set(next(source.network.parameters()).flatten().tolist())
    assert set(next(cut.parameters()).flatten().tolist()) <= values


@pytest.mark.parametrize("score", [magnitude, lambda source, shape: taylor(source, shape, 16)])
@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_parts_that_do_nothing_go_first_and_nothing_changes(
    source_of: Callable[[str], Source], architecture: str, score: Callable[..., Any]
) -> None:
    source = source_of(architecture)
    shape = of_config(source.config)
    dead = torch.arange(0, shape.inner_size, 2)
    for block in source.blocks:
        for name, parameter in block.named_parameters():
            with torch.no_grad():
                if name in ("output.dense.weight", "mlp.down_proj.weight"):
                    parameter[:, dead] = 0
                if name.startswith(("intermediate.", "mlp.gate_proj", "mlp.up_proj")):
                    parameter[dead] = 0
    sizes = pruned.Params.parse({"inner_size": shape.inner_size - len(dead)})
    cut = pruned.narrowed(source, pruned.kept(score(source, shape), shape, sizes))
    assert torch.allclose(scored(source, source.network), scored(source, cut), atol=1e-6)


def test_taylor_sees_what_size_does_not(source_of: Callable[[str], Source]) -> None:
    source = source_of("decoder")
    shape = of_config(source.config)
    weights = dict(source.blocks[0].named_parameters())
    with torch.no_grad():  # a large unit whose answer nobody reads
        weights["mlp.down_proj.weight"][:, 5] = 0
        weights["mlp.up_proj.weight"][5] *= 100
    assert magnitude(source, shape).units[0].argmax() == 5
    assert taylor(source, shape, 16).units[0].argmin() == 5


def test_an_upcycled_student_computes_what_its_dense_origin_does(source_of: Callable[[str], Source]) -> None:
    source = source_of("decoder")
    sparse: Any = upcycled.make(source, upcycled.Params.parse({"experts": 3}))
    assert torch.allclose(scored(source, source.network), scored(source, sparse), atol=1e-5)
    inner = {name: value.shape[0] for name, value in sparse.named_parameters() if "experts" in name}
    assert set(inner.values()) == {3}
    fewer: Any = upcycled.make(source, upcycled.Params.parse({"experts": 2, "layers": [1, 3]}))
    assert fewer.config.num_hidden_layers == 2
    again = upcycled.make(source, upcycled.Params.parse({"experts": 3}))
    assert all(torch.equal(one, other) for one, other in zip(sparse.parameters(), again.parameters(), strict=True))


def test_the_experts_go_into_the_decoders_graph(source_of: Callable[[str], Source]) -> None:
    from serving.models.decoder_graph import Graph

    source = source_of("decoder")
    sparse: Any = upcycled.make(source, upcycled.Params.parse({"experts": 3})).eval()
    for name, parameter in sparse.named_parameters():  # experts that differ
        if "experts" in name or ".gate." in name:
            nn.init.normal_(parameter, std=0.3)
    ids = torch.arange(12).reshape(2, 6)
    empty = torch.zeros(2, sparse.config.num_key_value_heads, 0, sparse.config.head_dim)
    with torch.no_grad():
        want = sparse(input_ids=ids).logits
        positions, past = torch.arange(6).expand(2, 6), [empty] * (2 * sparse.config.num_hidden_layers)
        got, *_ = Graph(sparse)(ids, positions, torch.arange(6), *past)
    assert torch.allclose(got, want, atol=1e-4)


STUDENTS: list[tuple[str, str, dict[str, Any]]] = [
    ("encoder", "teacher_layers", {"count": 2}),
    ("encoder", "pruned", {**NARROW["encoder"], "layers": [1, 4], "rows": 16}),
    ("decoder", "pruned", {**NARROW["decoder"], "rows": 16}),
    ("decoder", "upcycled", {"experts": 2}),
]


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
@pytest.mark.parametrize(("architecture", "start", "params"), STUDENTS)
def test_a_student_is_saved_loaded_by_transformers_and_trained(
    recipe_of: Callable[..., Recipe], tmp_path: Path, architecture: str, start: str, params: dict[str, Any]
) -> None:
    from transformers import AutoModel

    recipe = recipe_of(architecture, {"from": start, "params": params})
    students.check(recipe)
    task = tasks.of(recipe)
    for folder in ("teacher", "initial"):
        (tmp_path / folder).mkdir()
    task.save(task.build(recipe.teacher, 0), tmp_path / "teacher")
    network = students.begin(recipe, task, tmp_path / "teacher")
    task.save(network, tmp_path / "initial")
    plain: Any = AutoModel
    assert plain.from_pretrained(str(tmp_path / "initial")).config.num_hidden_layers == len(
        Source(task, network, 0).blocks
    )
    columns = task.fit_columns()
    table.write(tmp_path / "rows.arrow", columns)
    stage = recipe.distill.stages[0].model_copy(update={"losses": [_cross_entropy()], "epochs": 0.5})
    job = Job(recipe, "distill", str(tmp_path / "initial"), str(tmp_path / "rows.arrow"), str(tmp_path / "rows.arrow"),
              (stage,), 8, recipe.distill.engine)  # fmt: skip
    trained = run_local(job, tmp_path / "run")
    assert of_config(task.load(str(trained.weights)).config) == of_config(network.config)


def _cross_entropy() -> Any:
    from cluster.recipe.training import LossTerm

    return LossTerm(name="cross_entropy")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("encoder", {"from": "grown"}, "unknown start"),
    ("encoder", {"from": "upcycled"}, "no sparse form"),
    ("encoder", {"from": "teacher_layers", "params": {"layers": [2, 5]}}, "more layers than the teacher"),
    ("encoder", {"from": "teacher_layers", "params": {}}, "layers, a list, or count"),
    ("encoder", {"from": "pruned", "params": {"hidden_size": 20, "heads": 2}}, "share the channels"),
    ("encoder", {"from": "pruned", "params": {"inner_size": 64}}, "more than the teacher has"),
    ("decoder", {"from": "pruned", "params": {"heads": 1}}, "go with their key/value head"),
    ("decoder", {"from": "pruned", "params": {"layers": [1, 9]}}, "no such layers"),
    ("decoder", {"from": "upcycled", "params": {"layers": [7]}}, "no such layer"),
    ("decoder", {"from": "upcycled", "params": {"experts": 2, "experts_per_token": 3}}, "at most experts"),
]


@pytest.mark.parametrize(("architecture", "init", "said"), REFUSED)
def test_what_the_teacher_cannot_give_is_refused_before_it_is_fitted(
    recipe_of: Callable[..., Recipe], architecture: str, init: dict[str, Any], said: str
) -> None:
    with pytest.raises((RecipeError, MismatchError), match=said):
        students.check(recipe_of(architecture, init))


def test_another_architecture_has_no_place_for_the_weights(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of("decoder", {"from": "teacher_layers", "params": {"count": 2}})
    other = recipe.student.model_copy(update={"architecture": "encoder"})
    with pytest.raises(RecipeError, match="no place for the teacher's weights"):
        students.check(recipe.model_copy(update={"student": other}))
    asked = recipe.teacher.model_copy(update={"architecture": "openai"})
    with pytest.raises(RecipeError, match="cannot be taken"):
        students.check(recipe.model_copy(update={"teacher": asked}))


def test_a_start_comes_without_other_sizes_and_names_its_recipe(recipe_of: Callable[..., Recipe]) -> None:
    plain, cut = recipe_of("encoder", None), recipe_of("encoder", {"from": "teacher_layers", "params": {"count": 2}})
    assert "init" not in plain.student.identity()
    assert plain.section_hash("student") != cut.section_hash("student")
    values = plain.model_dump(mode="json")
    values["student"] |= {"params": {"layers": 2}, "init": {"from": "teacher_layers", "params": {"count": 2}}}
    with pytest.raises(RecipeError, match="init without weights and params"):
        Recipe.parse(values)


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_the_sizes_of_a_section_are_those_of_its_network(recipe_of: Callable[..., Recipe], architecture: str) -> None:
    recipe = recipe_of(architecture, None)
    network = tasks.of(recipe).build(recipe.teacher, 0)
    assert of_section(recipe.teacher) == of_config(network.config)
    assert set(STARTS) == {"pruned", "teacher_layers", "upcycled"}


def test_a_seed_of_its_own_changes_the_student_alone(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    from jobs import curate, distill

    recipe = recipe_of("encoder", None)
    task = tasks.of(recipe)
    task.save(task.build(recipe.teacher, 0), tmp_path)
    seeded = [recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"seed": n})}) for n in (0, 0, 1)]
    networks: list[Any] = [students.begin(own, task, tmp_path) for own in seeded]
    first = [network.encoder.encoder.layer[0].attention.self.query.weight for network in networks]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert len({curate.STEP.id(own) for own in seeded}) == 1
    assert len({distill.STEP.id(own) for own in seeded}) == 2
    job = Job(recipe, "distill", "", "", "", (), 8, recipe.distill.engine)
    assert (job.seed, Job(**{**vars(job), "own_seed": 7}).seed) == (recipe.seed, 7)
