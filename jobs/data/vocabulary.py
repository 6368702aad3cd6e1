"""The tokenizer that teacher and student of a language model share: the teacher's, a file's, or one made of the rows.

Which one it is decides what every soft label means, so another tokenizer is refused wherever one comes in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import MismatchError, RecipeError
from serving.models import weights

END = "<|endoftext|>"
LEARNED_FROM = 4_000_000  # characters that merges are counted on: more changes them little and costs seconds
GPT2 = ("encoder.json", "vocab.bpe")  # endings of the two files of the original release


@dataclass(frozen=True)
class Vocabulary:
    """A `tokenizers` tokenizer, how many ids models have (>= its tokens), and the ids that begin and end a text."""

    tokenizer: Any
    size: int
    bos: int
    eos: int

    @property
    def ends(self) -> dict[str, int]:
        """`bos` and `eos` as models and bundles name them."""
        return {"bos": self.bos, "eos": self.eos}


def learned(texts: Sequence[str], size: int) -> Vocabulary:
    """Byte-level BPE of `size` tokens (arXiv 1508.07909; bytes as in GPT-2), the same for the same rows.

    Raises RecipeError where the bytes alone do not fit.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size <= len(alphabet):
        raise RecipeError("data.params.vocabulary is too small", got=size, expected=f"more than {len(alphabet)} bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    held, chosen = 0, []
    for text in texts:
        if held >= LEARNED_FROM:
            break
        chosen.append(text)
        held += len(text)
    tokenizer.train_from_iterator(chosen, trainer)
    return _named(tokenizer, END, None)


def of_file(source: str, end: str) -> Vocabulary:
    """The tokenizer of a file (tokenizer.json), a folder with one, or GPT-2's two files; `end` is its end token.

    Raises RecipeError when there is none, MismatchError when it has no such token.
    """
    return _named(_read(source), end, None)


def of_weights(source: str) -> Vocabulary:
    """The tokenizer of a causal language model. Raises RecipeError when it has none, MismatchError without an end."""
    from transformers import AutoConfig, AutoTokenizer

    located = weights.locate(source)
    own: Any = AutoTokenizer.from_pretrained(located)
    if own.eos_token is None:
        raise MismatchError(f"{source}: its tokenizer names no end token", got="null", expected="eos_token")
    size = int(AutoConfig.from_pretrained(located).get_text_config().vocab_size)
    found = _named(weights.tokenizer(source), own.eos_token, size)
    bos = found.eos if own.bos_token_id is None else int(own.bos_token_id)
    return Vocabulary(found.tokenizer, size, bos, found.eos)


def refuse_another(one: Vocabulary, source: str, what: str) -> None:
    """Raise MismatchError unless the model in `source` has the very same tokens, id by id."""
    other = of_weights(source)
    if (other.tokenizer.get_vocab(), other.size) != (one.tokenizer.get_vocab(), one.size):
        got = f"{other.size} ids in {source}"
        hint = "take weights of the same family, or null: a fresh student with the teacher's vocabulary"
        raise MismatchError(
            f"{what}: another tokenizer", got=got, expected=f"the {one.size} ids of the rest", hint=hint
        )


def files(source: str) -> list[Path]:
    """The one file of a tokenizer, or GPT-2's two. Raises RecipeError where there are none."""
    path = Path(source).expanduser()
    single = path / "tokenizer.json" if path.is_dir() else path
    if single.is_file():
        return [single]
    found = [sorted(path.glob(f"*{ending}")) for ending in GPT2] if path.is_dir() else []
    if not found or not all(found):
        expected = f"tokenizer.json, or a folder with it or with *{GPT2[0]} and *{GPT2[1]}"
        raise RecipeError("data.params.tokenizer: nothing to read there", got=source, expected=expected)
    return [found[0][0], found[1][0]]


@functools.cache
def _read(source: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    paths = [str(path) for path in files(source)]
    if len(paths) == 1:
        return Tokenizer.from_file(paths[0])
    tokenizer = Tokenizer(models.BPE.from_file(*paths))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def _named(tokenizer: Any, end: str, size: int | None) -> Vocabulary:
    place = tokenizer.token_to_id(end)
    if place is None:
        raise MismatchError("the tokenizer has no such end token", got=end, expected="data.params.end_token of its own")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Vocabulary(tokenizer, size or tokenizer.get_vocab_size(), place, place)
