"""A causal language model as teacher: any local folder or hub id that transformers loads, on a GPU or CPUs.

Prompts of one length share a batch and nothing is padded, or (`batching: left_pad`) prompts of like length are padded
on the left under a mask. Every row draws from a stream of its own, one number a step, so its answer does not depend on
its batch. For large vocabularies a `Packer` sees the logits of each step once, and no [A, V] is kept.
Shape legend: B rows, S prompt tokens, A answer tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from cluster.errors import MismatchError, RecipeError
from cluster.recipe.base import Section
from cluster.recipe.models import ModelSection
from serving import teachers
from serving.bundle.answer import Answer, BundleError, by_length
from serving.models import weights
from serving.teachers.budget import Sharing
from serving.teachers.replies import Array, DenseReply, Failure, Reply, Usage

Precision = Literal["float32", "bfloat16"]


class CausalParams(Section):
    """How a causal language model answers (`params` of architecture `causal_lm`)."""

    max_new_tokens: int = Field(128, ge=1, description="longest answer, the end included (tokens)")
    batch_size: int = Field(32, ge=1, description="rows of one forward pass (rows)")
    batching: Literal["length", "left_pad"] = Field(
        "length", description="rows of one length together, nothing padded; or like lengths, padded on the left"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "fastest"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it, float32 on CPUs; fastest: timed when it is opened"
    )
    chat_template: bool = Field(True, description="the tokenizer's own template where it has one; false: text as it is")
    system: str | None = Field(None, description="system message of the chat template; null: none")
    revision: str | None = Field(None, description="commit or tag of a hub id; null: the newest")
    keep_hidden: bool = Field(False, description="whether replies carry the last hidden state")


class Packer(Protocol):
    """Reduces logits while they are there, so that a vocabulary of 150,000 costs no memory per answer."""

    def __call__(self, rows: Sequence[int], logits_BV: Any, token_B: Any) -> None:
        """One step of the rows (indexes of `prompts`) that still answer: float32 logits [B, V] at T=1 and the int64
        token [B] each of them took from there, the end included. Steps of a row come in order."""


class CausalTeacher:
    """Continues prompts token by token with a key/value cache, until the end token or `max_new_tokens`."""

    def __init__(self, model: Any, tokenizer: Any, params: CausalParams) -> None:
        """`model`: a transformers causal language model; `tokenizer`: its transformers tokenizer.

        Raises MismatchError when the tokenizer has more tokens than the model.
        """
        self.model, self.tokenizer, self.params = model.eval(), tokenizer, params
        text = model.config.get_text_config()
        self.size, self.positions = int(text.vocab_size), getattr(text, "max_position_embeddings", None)
        if len(tokenizer) > self.size:
            raise MismatchError(
                "the tokenizer has more tokens than the model", got=len(tokenizer), expected=f"at most {self.size}"
            )
        self.ends = _ends(model, tokenizer)

    @cached_property
    def vocabulary(self) -> Sequence[str]:
        """Tokens by id; padded embedding rows are empty."""
        from serving.teachers.transformers import tokens_by_id

        return tokens_by_id(self.tokenizer.get_vocab(), self.size)

    def prompt(self, item: Mapping[str, Any]) -> Array:
        """Token ids int64 [S] of `{"text": str}`, in the chat template where there is one.

        Raises BundleError for an empty text, for pictures, and for a prompt that leaves no room to answer.
        """
        text = item.get("text")
        if not isinstance(text, str) or not text.strip():
            raise BundleError(f"text: got {text!r:.80}, expected a non-empty string")
        if item.get("images"):
            raise BundleError("images: this teacher reads text only")
        if self.params.chat_template and self.tokenizer.chat_template:
            system = [] if self.params.system is None else [{"role": "system", "content": self.params.system}]
            messages = [*system, {"role": "user", "content": text}]
            ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        else:
            ids = self.tokenizer(text)["input_ids"]
        room = None if self.positions is None else self.positions - self.params.max_new_tokens
        if room is not None and len(ids) > room:
            raise BundleError(f"text: got {len(ids)} tokens, expected at most {room}")
        return np.asarray(ids, np.int64)

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """See `Teacher.answer`."""
        return teachers.answers(self, items)

    def complete(self, prompts: Sequence[Array], temperature: float = 0.0, seeds: Sequence[int] | None = None,
                 packer: Packer | None = None) -> list[Reply | Failure]:  # fmt: skip
        """Replies in order, `DenseReply` with logits, or with a `packer` plain ones: it gets the logits instead.

        Raises ValueError when drawing without seeds.
        """
        if temperature > 0 and seeds is None:
            raise ValueError("a temperature above 0 needs one seed per row")
        draws = None if temperature == 0 or seeds is None else _uniforms(seeds, self.params.max_new_tokens)

        def run(rows: list[int]) -> list[Reply]:
            from serving.teachers import decoding

            own = None if draws is None else draws[rows]
            batch = decoding.Batch(rows, [prompts[row] for row in rows], temperature, own)
            spans = decoding.decode(self, batch, packer)
            return [self._reply(span, len(prompts[row])) for row, span in zip(rows, spans, strict=True)]

        if self.params.batching == "length":
            return by_length(prompts, run, self.params.batch_size)
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        parts = [order[at : at + self.params.batch_size] for at in range(0, len(order), self.params.batch_size)]
        found = {row: reply for rows in parts for row, reply in zip(rows, run(rows), strict=True)}
        return [found[row] for row in range(len(prompts))]

    def _reply(self, span: Any, read: int) -> Reply:
        """`span`: `decoding.Span`, what one row took."""
        tokens = np.asarray(span.tokens, np.int64)
        written = tokens[:-1] if len(tokens) and int(tokens[-1]) in self.ends else tokens
        text = self.tokenizer.decode(written.tolist(), skip_special_tokens=True)
        confidence = float(np.exp(np.mean(span.logprobs, dtype=np.float64)))
        usage = Usage(read, len(tokens))
        hidden = np.stack(span.hidden) if span.hidden else None
        if not span.logits:
            return Reply(text, confidence, tokens, None, hidden, usage=usage)
        if hidden is None:
            return Reply(text, confidence, tokens, np.stack(span.logits), None, usage=usage)
        return replace(DenseReply(text, confidence, tokens, np.stack(span.logits), hidden), usage=usage)


def check_section(section: ModelSection, at: str) -> None:
    """See `teachers.check`: the weights are there and a GPU that was asked for is, too."""
    import torch

    params = CausalParams.parse(section.params, at=f"{at}.params")
    if section.weights is None:
        raise RecipeError(f"{at}.weights is needed", got="null", expected="a local folder or a hub id")
    weights.locate(section.weights)
    if params.device == "cuda" and not torch.cuda.is_available():
        hint = f"--set {at}.params.device=auto"
        raise RecipeError(f"{at}.params.device: no GPU here", got="cuda", expected="cpu or auto", hint=hint)


def open_section(section: ModelSection, sharing: Sharing, at: str) -> CausalTeacher:
    """See `teachers.open_teacher`. Raises RecipeError when the folder holds no causal language model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    params = CausalParams.parse(section.params, at=f"{at}.params")
    source = weights.locate(str(section.weights))
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=params.revision)
        model: Any = AutoModelForCausalLM.from_pretrained(source, revision=params.revision, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:160]
        got, expected = f"{section.weights}: {said}", "weights and tokenizer of one"
        raise RecipeError(f"{at}.weights: no causal language model", got=got, expected=expected) from None
    gpu = params.device != "cpu" and torch.cuda.is_available()
    model.to("cuda" if gpu else "cpu")
    model.to(getattr(torch, precision(model, params, gpu)))
    return CausalTeacher(model, tokenizer, params)


def precision(model: Any, params: CausalParams, gpu: bool) -> Precision:
    """The type to compute in. Only `fastest` depends on the machine's load; the other choices are the same every time,
    and so are the answers."""
    import torch

    if params.dtype in ("float32", "bfloat16"):
        return "float32" if params.dtype == "float32" else "bfloat16"
    if params.dtype == "fastest":
        from serving.teachers import decoding

        rates = decoding.measure(model)
        return "bfloat16" if rates["bfloat16"] > rates["float32"] else "float32"
    return "bfloat16" if gpu and torch.cuda.is_bf16_supported() else "float32"


def _uniforms(seeds: Sequence[int], steps: int) -> Array:
    """One stream per row, float64 [B, steps] in 0..1: a number a step, so that the vocabulary costs no memory."""
    return np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    told = getattr(model.generation_config, "eos_token_id", None)
    ids = [*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id]
    return frozenset(int(one) for one in ids if one is not None)
