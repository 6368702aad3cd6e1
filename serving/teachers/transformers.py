"""A model in a Hugging Face folder as an answerer: the teacher, and the float student it is compared with.

The folder holds `task.json` beside the weights, so what answers needs no recipe. One `Reply` per request carries the
text and, for `jobs generate`, the logits and hidden states that chose each token.
Shape legend: B rows, S tokens, A answer tokens, V vocabulary or classes, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cluster.errors import DataError
from serving.bundle import answer, pictures, predict, texts
from serving.models.layers import Seen, blocks, captured
from serving.teachers.replies import DenseReply

if TYPE_CHECKING:
    from serving.teachers.picture_classes import PictureTeacher
    from serving.teachers.retrieval import RetrievalTeacher
    from serving.teachers.writing import WritingTeacher

Array = np.ndarray[Any, Any]


Reply = DenseReply  # every reply of this module carries logits and hidden states


def load(folder: str | Path) -> VisualTeacher | TextTeacher | WritingTeacher | PictureTeacher | RetrievalTeacher:
    """Open a model folder. Raises DataError when `task.json` is missing or names an unknown task."""
    path = Path(folder) / "task.json"
    if not path.is_file():
        raise DataError(
            "model folder without task.json", got=str(folder), expected="a folder written by fit or distill"
        )
    spec = json.loads(path.read_text())
    if spec.get("task") == "visual_qa":
        return VisualTeacher.open(Path(folder), spec)
    if spec.get("task") == "text_classification":
        return TextTeacher.open(Path(folder), spec)
    if spec.get("task") == "text_generation":
        from serving.teachers.writing import WritingTeacher

        return WritingTeacher.open(Path(folder), spec)
    if spec.get("task") == "image_classification":
        from serving.teachers.picture_classes import PictureTeacher

        return PictureTeacher.open(Path(folder), spec)
    if spec.get("task") == "retrieval":
        from serving.teachers.retrieval import RetrievalTeacher

        return RetrievalTeacher.open(Path(folder), spec)
    expected = "visual_qa, text_classification, text_generation, image_classification, retrieval"
    raise DataError("task.json: unknown task", got=spec.get("task"), expected=expected)


class VisualTeacher:
    """Answers questions about media by free generation; prompts of one length share a batch: nothing is padded.

    `layers`: whose states replies carry [A, L, H]; (): the last one, after the final norm [A, H].
    """

    layers: tuple[int, ...] = ()

    def __init__(self, model: Any, tokenizer: Any, spec: Mapping[str, Any]) -> None:
        self.model, self.tokenizer, self.spec = model.eval(), tokenizer, spec
        self.media = pictures.Media.of(spec)

    @classmethod
    def open(cls, folder: Path, spec: Mapping[str, Any]) -> VisualTeacher:
        """The model of a folder."""
        from serving.models import omni

        return cls(omni.load(folder), answer.read_tokenizer(folder), spec)

    @property
    def vocabulary(self) -> Sequence[str]:
        """Tokens by id; ids that the tokenizer does not use are empty."""
        return tokens_by_id(self.tokenizer.get_vocab(), self.model.config.text_config.vocab_size)

    def prompt(self, item: Mapping[str, Any]) -> pictures.Prompt:
        """What the model is asked about one request; see `pictures.encode`."""
        return pictures.encode(item, self.tokenizer, self.spec["tokens"], self.media)

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order. Raises BundleError for a request that cannot be read."""
        return [
            predict.Answer(reply.text, reply.confidence)
            for reply in self.complete([self.prompt(item) for item in items])
        ]

    def complete(self, prompts: Sequence[pictures.Prompt], temperature: float = 0.0,
                 seeds: Sequence[int] | None = None, batch: int = 256) -> list[Reply]:  # fmt: skip
        """Replies in order: greedy, or drawn at the generation `temperature` from one stream per row (`seeds`)."""

        def run(rows: list[int]) -> list[Reply]:
            own = None if seeds is None or temperature == 0 else [seeds[row] for row in rows]
            return self._batch([prompts[row] for row in rows], temperature, own)

        return answer.by_length([prompt.ids for prompt in prompts], run, batch)

    def _batch(
        self, prompts: Sequence[pictures.Prompt], temperature: float, seeds: Sequence[int] | None
    ) -> list[Reply]:
        from serving.models import omni

        arrays = pictures.together(prompts, self.spec["tokens"], self.media)
        batch = {name: torch.from_numpy(value).to(self.model.device) for name, value in arrays.items()}
        steps, vocabulary = self.spec["max_new_tokens"], self.model.config.text_config.vocab_size
        noise = None if seeds is None else _gumbel(seeds, steps, vocabulary, self.model.device)
        with captured(blocks(self.model) if self.layers else (), self.layers) as seen:
            out = omni.generate(self.model, batch, steps, self.spec["tokens"]["eos"], noise, temperature)
        states = torch.stack([_steps(one) for one in seen], 2) if seen else out.hidden
        logprob_BA = out.logits.log_softmax(-1).gather(-1, out.tokens[..., None])[..., 0]
        replies = []
        for row, length in enumerate(out.lengths.tolist()):
            tokens = out.tokens[row, :length].cpu().numpy()
            confidence = float(logprob_BA[row, :length].mean().exp())
            logits, hidden = out.logits[row, :length].cpu().numpy(), states[row, :length].float().cpu().numpy()
            replies.append(Reply(self.tokenizer.decode(tokens.tolist()), confidence, tokens, logits, hidden))
        return replies


class TextTeacher:
    """Classifies texts; rows of one length share a batch, so nothing is padded.

    `layers`: whose states replies carry [1, L, H], mean over the tokens; (): the pooled last one [1, H].
    """

    layers: tuple[int, ...] = ()

    def __init__(self, model: Any, tokenizer: Any, spec: Mapping[str, Any]) -> None:
        self.model, self.tokenizer, self.spec = model.eval(), tokenizer, spec

    @classmethod
    def open(cls, folder: Path, spec: Mapping[str, Any]) -> TextTeacher:
        """The model of a folder."""
        from serving.models import encoder

        return cls(encoder.load(folder), answer.read_tokenizer(folder), spec)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The labels, in the order of the logits."""
        return [str(label) for label in self.spec["labels"]]

    def prompt(self, item: Mapping[str, Any]) -> Array:
        """Token ids int64 [S] of `{"text": str}`, cut at the model's `max_tokens`; see `texts.encode_text`."""
        return texts.encode_text(item, self.tokenizer, self.spec)

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order, with the probability of every label. Raises BundleError for an empty text."""
        replies = self.complete([self.prompt(item) for item in items])
        return [answer.named(answer.softmax(reply.logits[0]), self.spec["labels"]) for reply in replies]

    @torch.no_grad()
    def complete(self, prompts: Sequence[Array], temperature: float = 0.0, seeds: Sequence[int] | None = None,
                 batch: int = 64) -> list[Reply]:  # fmt: skip
        """Replies in order; a classifier draws nothing, so `temperature` and `seeds` change no answer."""

        def run(rows: list[int]) -> list[Reply]:
            ids_BS = torch.from_numpy(np.stack([prompts[row] for row in rows])).to(self.model.device)
            with captured(blocks(self.model) if self.layers else (), self.layers) as seen:
                logits_BV, hidden = self.model({"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)})
            if seen:
                hidden = torch.stack([one.states[0].mean(1) for one in seen], 1)
            return [
                self._reply(*pair)
                for pair in zip(logits_BV.float().cpu().numpy(), hidden.float().cpu().numpy(), strict=True)
            ]

        return answer.by_length(prompts, run, batch)

    def _reply(self, logits_V: Array, hidden: Array) -> Reply:
        best = int(logits_V.argmax())
        confidence = float(answer.softmax(logits_V)[best])
        return Reply(self.spec["labels"][best], confidence, np.array([best]), logits_V[None], hidden[None])


def tokens_by_id(vocabulary: Mapping[str, int], size: int) -> list[str]:
    """The texts of token ids 0..size-1; an id without a token (padded embedding rows) is the empty text."""
    words = [""] * size
    for word, index in vocabulary.items():
        if index < size:
            words[index] = word
    return words


def _steps(seen: Seen) -> torch.Tensor:
    """States [B, A, H] that chose each token of the answers: the last position of every decoding step."""
    return torch.stack([state[:, -1] for state in seen.states], 1)


def _gumbel(seeds: Sequence[int], steps: int, vocabulary: int, device: Any) -> list[torch.Tensor]:
    draws = np.stack([np.random.default_rng(seed).gumbel(size=(steps, vocabulary)) for seed in seeds], 1)
    return [torch.from_numpy(step).float().to(device) for step in draws]
