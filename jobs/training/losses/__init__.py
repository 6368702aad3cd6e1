"""Loss terms by name: one file each, a pure function of tensors; a new loss is one file and one line here.

Shape legend: Q scored positions (tokens of all responses, or rows of a classifier), V vocabulary or classes,
H teacher hidden size, W student hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Stage, Term
from cluster.recipe.base import Section
from cluster.recipe.training import LossTerm, Ramp
from jobs.training.losses import (
    attention_transfer,
    conditional_kl,
    contrastive,
    cross_entropy,
    decoupled_kd,
    forward_kl,
    hidden_cosine,
    hidden_gram,
    hidden_mse,
    hidden_procrustes,
    initial_weights,
    input_gradient,
    jensen_shannon,
    logit_mse,
    margin_mse,
    masked_tokens,
    output_entropy,
    relation_transfer,
    reverse_kl,
    sampled_cross_entropy,
    skew_kl,
    skew_reverse_kl,
    standardised_kl,
    top_k_tail,
    total_variation,
)
from jobs.training.losses.sparse_labels import SparseLabels
from jobs.training.schedules import params_at
from jobs.training.weighting import RULES


@dataclass(frozen=True)
class Signals:
    """What the terms of one step may read; teacher signals are None where the artifact does not hold them.

    `student_hidden_QH` is through the stage's adapter, `student_features_QW` as it is. `start_weights` pairs every
    learning parameter with its value before the run; `target_counts_V` says how many rows of the table have a class;
    `weights_Q` is what the term's focus gave the positions. `pairs`: per pair of a stage's `layers` the fields of
    `PAIRED` as they are there; losses see one pair at a time, in these fields. Maps are attention [B, heads, S, S] or
    features [B, channels, height, width]; projections {query, key, value: [B, S, width]}; `mask_BS` their real tokens.
    Slopes are gradients of the task loss by the input [B, ...].
    """

    student_logits_QV: Tensor
    targets_Q: Tensor
    teacher_logits_QV: Tensor | None = None
    student_hidden_QH: Tensor | None = None
    teacher_hidden_QH: Tensor | None = None
    teacher_sparse: SparseLabels | None = None
    teacher_entropy_Q: Tensor | None = None
    student_features_QW: Tensor | None = None
    start_weights: tuple[tuple[Tensor, Tensor], ...] | None = None
    target_counts_V: Tensor | None = None
    weights_Q: Tensor | None = None
    student_maps_BCHW: Tensor | None = None
    teacher_maps_BDHW: Tensor | None = None
    student_projections: Mapping[str, Tensor] | None = None
    teacher_projections: Mapping[str, Tensor] | None = None
    mask_BS: Tensor | None = None
    masked_logits_MV: Tensor | None = None
    masked_targets_M: Tensor | None = None
    student_slopes: Tensor | None = None
    teacher_slopes: Tensor | None = None
    pairs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Loss:
    """A loss: its function of (signals, params) -> scalar, its parameter model, and the signals it needs.

    `focused` losses heed `weights_Q`; the weight of an `absolute` one is a factor on its own size and no share.
    """

    function: Callable[[Any, Any], Tensor]
    params: type[Section]
    needs: tuple[str, ...] = ()
    focused: bool = False
    absolute: bool = False


LOGITS, ADAPTED, PLAIN = (
    ("teacher_logits_QV",), ("student_hidden_QH", "teacher_hidden_QH"), ("student_features_QW", "teacher_hidden_QH")
)  # fmt: skip

MAPS, PROJECTIONS = ("student_maps_BCHW", "teacher_maps_BDHW"), ("student_projections", "teacher_projections")
SLOPES = ("student_slopes", "teacher_slopes")
# Tasks whose networks show query, key and value of every layer (`jobs.tasks.Attentive`); a picture's maps are features.
TOKEN_TASKS, MAPPED = ("retrieval", "text_classification", "text_generation"), ("image_classification",)
PAIRED = {*ADAPTED, *PLAIN, *MAPS, *PROJECTIONS}

LOSSES: dict[str, Loss] = {
    "attention_transfer": Loss(attention_transfer.term, attention_transfer.Params, MAPS),
    "conditional_kl": Loss(conditional_kl.conditional_kl, conditional_kl.Params, LOGITS, focused=True),
    "contrastive": Loss(contrastive.contrastive, contrastive.Params, ADAPTED),
    "cross_entropy": Loss(cross_entropy.cross_entropy, cross_entropy.Params, focused=True),
    "decoupled_kd": Loss(decoupled_kd.decoupled_kd, decoupled_kd.Params, LOGITS, focused=True),
    "forward_kl": Loss(forward_kl.forward_kl, forward_kl.Params, LOGITS, focused=True),
    "hidden_cosine": Loss(hidden_cosine.hidden_cosine, hidden_cosine.Params, ADAPTED),
    "hidden_gram": Loss(hidden_gram.hidden_gram, hidden_gram.Params, PLAIN),
    "hidden_mse": Loss(hidden_mse.hidden_mse, hidden_mse.Params, ADAPTED),
    "hidden_procrustes": Loss(hidden_procrustes.hidden_procrustes, hidden_procrustes.Params, PLAIN),
    "initial_weights": Loss(initial_weights.initial_weights, initial_weights.Params, ("start_weights",), absolute=True),
    "input_gradient": Loss(input_gradient.term, input_gradient.Params, SLOPES),
    "jensen_shannon": Loss(jensen_shannon.jensen_shannon, jensen_shannon.Params, LOGITS, focused=True),
    "logit_mse": Loss(logit_mse.logit_mse, logit_mse.Params, LOGITS, focused=True),
    "masked_tokens": Loss(masked_tokens.masked_tokens, masked_tokens.Params, ("masked_logits_MV", "masked_targets_M")),
    "margin_mse": Loss(margin_mse.margin_mse, margin_mse.Params, LOGITS, focused=True),
    "output_entropy": Loss(output_entropy.output_entropy, output_entropy.Params, focused=True, absolute=True),
    "relation_transfer": Loss(relation_transfer.term, relation_transfer.Params, PROJECTIONS),
    "reverse_kl": Loss(reverse_kl.reverse_kl, reverse_kl.Params, LOGITS, focused=True),
    "sampled_cross_entropy": Loss(
        sampled_cross_entropy.sampled_cross_entropy, sampled_cross_entropy.Params, ("teacher_sparse",), focused=True
    ),
    "skew_kl": Loss(skew_kl.skew_kl, skew_kl.Params, LOGITS, focused=True),
    "skew_reverse_kl": Loss(skew_reverse_kl.skew_reverse_kl, skew_reverse_kl.Params, LOGITS, focused=True),
    "standardised_kl": Loss(standardised_kl.standardised_kl, standardised_kl.Params, LOGITS, focused=True),
    "top_k_tail": Loss(top_k_tail.top_k_tail, top_k_tail.Params, ("teacher_sparse",), focused=True),
    "total_variation": Loss(total_variation.total_variation, total_variation.Params, LOGITS, focused=True),
}


def check(terms: Sequence[Term | LossTerm], where: str, absent: Mapping[str, str] | None = None) -> None:
    """Refuse losses, rules and parameters that cannot work before anything is started.

    `absent` (see below) names signals that the stage will not have, and why. Raises RecipeError naming the term.
    """
    for index, term in enumerate(terms):
        at = f"{where}.{index}"
        if term.name not in LOSSES:
            raise RecipeError(f"{at}: unknown loss", got=term.name, expected=", ".join(sorted(LOSSES)))
        loss = LOSSES[term.name]
        for step in (0, 1):  # a number that changes is between its ends all along
            loss.params.parse(params_at(term.params, step, 2, f"{at}.params"), at=f"{at}.params")
        needs = loss.needs + (_check_focus(term, at) if isinstance(term, LossTerm) else ())
        missing = [name for name in needs if name in (absent or {})]
        if missing:
            got = "; ".join(f"no {name}: {(absent or {})[name]}" for name in missing)
            raise RecipeError(f"{at}: {term.name} has not what it reads", got=got, expected=", ".join(needs))
    if not any((max(t.weight.ends) if isinstance(t.weight, Ramp) else t.weight) > 0 for t in terms):
        raise RecipeError(f"{where}: no loss has a weight above 0", got=[term.name for term in terms])


def _check_focus(term: LossTerm, at: str) -> tuple[str, ...]:
    """The signals that the term's rules need."""
    if term.focus and not LOSSES[term.name].focused:
        focused = ", ".join(sorted(name for name, loss in LOSSES.items() if loss.focused))
        raise RecipeError(f"{at}.focus: {term.name} takes every position alike", got=term.name, expected=focused)
    needs: tuple[str, ...] = ()
    for index, rule in enumerate(term.focus):
        if rule.name not in RULES:
            raise RecipeError(f"{at}.focus.{index}: unknown rule", got=rule.name, expected=", ".join(sorted(RULES)))
        RULES[rule.name].params.parse(rule.params, at=f"{at}.focus.{index}.params")
        needs += RULES[rule.name].needs
    return needs


def _not_packed(recipe: Recipe) -> dict[str, str]:
    """What the student's training table will not hold -> why. Where `auto` depends on a tokenizer the task checks too.

    Classes are few, so there `auto` is dense.
    """
    form = recipe.generate.labels.form
    missing: dict[str, str] = {}
    if form == "dense" or (form == "auto" and recipe.task != "text_generation"):
        missing["teacher_sparse"] = f"generate.labels.form is {form}: rows are packed with dense labels"
    elif form != "auto":
        missing |= dict.fromkeys(LOGITS, f"generate.labels.form is {form}: it keeps some tokens")
    if not recipe.generate.kept_layers:
        missing["teacher_hidden_QH"] = "generate.hidden_layer is null and hidden_layers is []"
    return missing


def _inside(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """What of the networks' layers a stage will not have -> why."""
    missing: dict[str, str] = {}
    texts = recipe.task in TOKEN_TASKS
    if stage.layers is None:
        missing |= dict.fromkeys((*MAPS, *PROJECTIONS), "the stage has no layers")
    elif not stage.live_teacher and texts:
        missing |= dict.fromkeys((*MAPS, *PROJECTIONS), "attention is not cached: the stage has live_teacher: false")
    if not texts:
        told = f"networks of {recipe.task} show none; tasks {', '.join(TOKEN_TASKS)} do"
        missing |= dict.fromkeys(PROJECTIONS if recipe.task in MAPPED else (*MAPS, *PROJECTIONS), told)
    if recipe.task != "text_classification":
        missing |= dict.fromkeys(("masked_logits_MV", "masked_targets_M"), f"{recipe.task} hides no tokens")
    if recipe.task != "image_classification":
        missing |= dict.fromkeys(SLOPES, f"networks of {recipe.task} share no input that takes gradients")
    elif not stage.live_teacher:
        missing |= dict.fromkeys(SLOPES, "gradients are not cached: the stage has live_teacher: false")
    return missing


def absent(recipe: Recipe, section: str, stage: Stage) -> dict[str, str]:
    """The signals that a stage of the recipe's `section` ("fit" or "distill") will not have -> why, for `check`."""
    missing: dict[str, str] = {}
    if section == "fit":
        signals = (*LOGITS, "teacher_hidden_QH", "teacher_sparse", "teacher_entropy_Q")
        missing |= dict.fromkeys(signals, "a teacher's fit has no teacher")
    else:
        told = (*LOGITS, "teacher_hidden_QH") if stage.live_teacher else ()
        missing |= {name: why for name, why in _not_packed(recipe).items() if name not in told}
    missing |= _inside(recipe, stage)
    if not stage.adapters:
        missing["student_hidden_QH"] = "the stage has adapters: false"
    if getattr(recipe, section).engine.zero_stage == 3:
        shared = "engine.zero_stage 3 shares the weights out over the workers"
        missing |= dict.fromkeys(("start_weights", *SLOPES), shared)
    if recipe.task not in ("text_classification", "image_classification"):
        missing["target_counts_V"] = f"a row of {recipe.task} has no single class"
    return missing
