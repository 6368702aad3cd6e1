"""A tiny GPT-2 with GPT-2's own tokenizer, and time that a test moves by hand."""

import json
from pathlib import Path

import pytest

VOCABULARY = Path(__file__).resolve().parents[4] / "shared/data/tokenizers"
TEXT = "the quick brown fox jumps over the lazy dog and asks where the card is that was sent last week"


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers loads: random weights, wide enough that answers differ from prompt to prompt."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2")
    if (VOCABULARY / "gpt2_encoder.json").is_file():
        merges = (VOCABULARY / "gpt2_vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
        pairs = [(left, right) for left, _, right in (line.partition(" ") for line in merges if line)]
        vocabulary = json.loads((VOCABULARY / "gpt2_encoder.json").read_text(encoding="utf-8"))
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        backend.train_from_iterator([TEXT] * 3, trainer)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=96, initializer_range=0.4,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


class HandTime:
    """A clock that only sleeping moves: seconds since it was made, and every sleep that was asked for."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def hand_time() -> HandTime:
    """Time by hand."""
    return HandTime()
