"""What a decoder looks at: maps equal to transformers' own, and losses that bring a student's nearer to a teacher's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from jobs.tasks.text_generation import rows
from jobs.training.distiller import View, look
from jobs.training.loop import Job
from jobs.training.runner import run_local
from jobs.training.stages.check import check

STAGE = "distill.stages.0"
INSIDE = {f"{STAGE}.layers": {"map": "last_k"}, f"{STAGE}.live_teacher": True, f"{STAGE}.epochs": 4}
SHAPE: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip


def network(family: str, **changes: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE | changes)
    config._attn_implementation = "eager"
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Qwen3", {}), ("Qwen2", {}), ("Llama", {}), ("Mistral", {"sliding_window": 3})],
)
def test_maps_of_every_family_are_the_networks_own(
    language: Callable[..., Recipe], labelled: Callable[[Recipe], Any], family: str, changes: dict[str, Any]
) -> None:
    task, *_ = labelled(language())
    batch = task.batch(task.validation_columns(), np.arange(4))
    real_BS = task.real(batch)
    own = network(family, **changes)
    with torch.no_grad():
        shown = look(task, own, batch, View((1, -1), attention=True))["layers"]
        given = own.model(input_ids=batch["input_ids"], output_attentions=True, use_cache=False).attentions
    assert 0 < real_BS.sum() < real_BS.numel()
    for one, maps_BNSS in zip(shown, given, strict=True):
        expected = maps_BNSS * real_BS[:, None, :, None]  # under a causal mask no real token sees padding
        torch.testing.assert_close(one["maps"], expected, rtol=1e-4, atol=1e-6)
        assert one["projections"]["key"].shape[-1] == 16
    with torch.no_grad():
        (some,) = look(task, own, batch, View((1,), attention=True, heads=(0, 3)))["layers"]
    torch.testing.assert_close(some["maps"], shown[0]["maps"][:, [0, 3]])
    keys_BSKD = shown[0]["projections"]["key"].unflatten(-1, (2, 8))
    torch.testing.assert_close(some["projections"]["key"].unflatten(-1, (2, 8)), keys_BSKD)


def test_padding_behind_the_answer_is_no_token(language: Callable[..., Recipe], labelled: Callable[..., Any]) -> None:
    task, *_ = labelled(language())
    columns = task.fit_columns()
    own = np.arange(5)
    real_BS = rows.real(task.batch(columns, own))
    assert real_BS.sum(1).tolist() == (columns["length"][own] - 1).tolist()


@pytest.mark.parametrize(
    "loss", [{"name": "attention_transfer"}, {"name": "relation_transfer", "params": {"relation_heads": 4}}]
)
def test_a_student_comes_to_look_where_its_teacher_looks(
    language: Callable[..., Recipe], distilling: Callable[[Recipe], Job], tmp_path: Path, loss: dict[str, Any]
) -> None:
    recipe = language(**INSIDE, **{f"{STAGE}.losses": [loss]})
    check(recipe, "distill", recipe.distill)
    points = [point["loss"] for point in run_local(distilling(recipe), tmp_path / "run").progress["curve"]]
    assert points[-1] < 0.9 * points[0]


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        ({"name": "relation_transfer", "params": {"relation_heads": 5}}, {}, "relation_heads: does not divide"),
        ({"name": "attention_transfer"}, {f"{STAGE}.layers": {"map": "last_k", "student_heads": [4]}}, "no such head"),
        ({"name": "attention_transfer"}, {f"{STAGE}.live_teacher": False}, "attention is not cached"),
    ],
)
def test_what_no_layer_can_show_is_refused_before_anything_starts(
    language: Callable[..., Recipe], loss: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    recipe = language(**INSIDE | {f"{STAGE}.losses": [loss]} | changes)
    with pytest.raises(RecipeError, match=message):
        check(recipe, "distill", recipe.distill)
