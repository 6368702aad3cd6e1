"""A language model as teacher of texts: it scores every token of a given text, or continues it.

`complete` is what `jobs generate` asks: of texts (`continues` in the folder's `task.json`) the tokens as they stand,
with the logits that the model gives them; of prompts an answer of its own. `answer` always writes.
Shape legend: B rows, S tokens, A scored tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import RecipeError
from serving.bundle import answer, predict, writing
from serving.teachers.causal import CausalParams, CausalTeacher, Packer
from serving.teachers.replies import Array, DenseReply, Failure, Reply, Usage

AT_ONCE = 1 << 25  # logits of a batch: 128 MiB in float32


class WritingTeacher(CausalTeacher):
    """A causal language model with the reading rules of task `text_generation` (`spec`: its `task.json`)."""

    def __init__(self, model: Any, tokenizer: Any, params: CausalParams, spec: Mapping[str, Any]) -> None:
        super().__init__(model, tokenizer, params)
        self.spec = spec

    @classmethod
    def open(cls, folder: Path, spec: Mapping[str, Any]) -> WritingTeacher:
        """The model of a folder that `jobs fit` or `jobs distill` wrote."""
        from serving.models import decoder

        params = CausalParams(max_new_tokens=spec["max_new_tokens"], chat_template=False, keep_hidden=True)
        tokenizer = tokenizer_of(answer.read_tokenizer(folder), spec["tokens"])
        return cls(decoder.load(folder), tokenizer, params, spec)

    @classmethod
    def around(cls, teacher: Any, spec: Mapping[str, Any]) -> WritingTeacher:
        """The model of a teacher that lies elsewhere. Raises RecipeError for one that shows no logits."""
        if not isinstance(teacher, CausalTeacher):
            raise RecipeError("teacher: texts need one that can score them", got=type(teacher).__name__,
                              expected="architecture decoder or causal_lm")  # fmt: skip
        own = {"keep_hidden": True, "max_new_tokens": spec["max_new_tokens"]}
        params = teacher.params.model_copy(update=own)
        return cls(teacher.model, teacher.tokenizer, params, spec)

    def prompt(self, item: Mapping[str, Any]) -> Array:
        """Token ids int64 [S]: of a text its start and all of it, of a prompt what an answer follows (in the model's
        own chat template where it has one). Raises BundleError for an empty text.
        """
        if not self.spec["continues"]:
            return self._begun(item)
        ids = writing.plain_ids(item, self.tokenizer.backend_tokenizer, self.spec)
        return np.concatenate([[self.spec["tokens"]["bos"]], ids])

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Greedy continuations in order. Raises BundleError for an empty text."""
        replies = super().complete([self._begun(item) for item in items])
        return [predict.Answer(reply.text, float(reply.confidence or 0.0)) for reply in replies]  # type: ignore[union-attr]

    def _begun(self, item: Mapping[str, Any]) -> Array:
        """What an answer or a continuation follows."""
        if not self.spec["continues"] and self.params.chat_template and self.tokenizer.chat_template:
            return super().prompt(item)
        return writing.prompt_ids(item, self.tokenizer.backend_tokenizer, self.spec)

    def complete(self, prompts: Sequence[Array], temperature: float = 0.0, seeds: Sequence[int] | None = None,
                 packer: Packer | None = None) -> list[Reply | Failure]:  # fmt: skip
        """See `CausalTeacher.complete`; texts are scored, and draw nothing."""
        if not self.spec["continues"]:
            return super().complete(prompts, temperature, seeds, packer)
        batch = max(1, min(self.params.batch_size, AT_ONCE // (self.size * max(len(ids) for ids in prompts))))
        return answer.by_length(prompts, lambda rows: self._score(rows, [prompts[row] for row in rows], packer), batch)

    @torch.no_grad()
    def scored(self, pairs: Sequence[tuple[Array, Array]]) -> list[Array]:
        """Logits float32 [A, V] that the model gives the tokens of each (context ids [S], answer ids [A])."""
        rows = [np.concatenate([context, answer_A[:-1]]) for context, answer_A in pairs]

        def run(chosen: list[int]) -> list[Array]:
            ids_BS = torch.from_numpy(np.stack([rows[row] for row in chosen])).to(self.model.device)
            logits_BSV = self.model(input_ids=ids_BS, use_cache=False).logits.float().cpu().numpy()
            return [own_SV[-len(pairs[row][1]) :] for row, own_SV in zip(chosen, logits_BSV, strict=True)]

        return answer.by_length(rows, run, self.params.batch_size)

    @torch.no_grad()
    def _score(self, rows: Sequence[int], prompts: Sequence[Array], packer: Packer | None) -> list[Reply | Failure]:
        ids_BS = torch.from_numpy(np.stack(prompts)).to(self.model.device)
        out = self.model(input_ids=ids_BS[:, :-1], output_hidden_states=True, use_cache=False)
        replies: list[Reply | Failure] = []
        for place, row in enumerate(rows):
            logits_AV, token_A = out.logits[place].float(), ids_BS[place, 1:]
            if packer is not None:
                for at in range(len(token_A)):
                    packer([row], logits_AV[at : at + 1].cpu(), token_A[at : at + 1].cpu())
            chosen_A = logits_AV.log_softmax(-1).gather(-1, token_A[:, None])[:, 0]
            tokens = token_A.cpu().numpy()
            about = (self.tokenizer.decode(tokens.tolist()), float(chosen_A.mean().exp()), tokens)
            hidden_AH, usage = out.hidden_states[-1][place].float().cpu().numpy(), Usage(len(tokens), 0)
            if packer is None:
                replies.append(DenseReply(*about, logits_AV.cpu().numpy(), hidden_AH, usage=usage))
            else:
                replies.append(Reply(*about, None, hidden_AH, usage=usage))
        return replies


def tokenizer_of(tokenizer: Any, ends: Mapping[str, int]) -> Any:
    """A `tokenizers` tokenizer as transformers' own, with its start and end named."""
    from transformers import PreTrainedTokenizerFast

    names = {f"{name}_token": tokenizer.id_to_token(ends[name]) for name in ("bos", "eos")}
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=tokenizer, **names)
