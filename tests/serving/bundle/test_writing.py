"""A language model in a bundle: the graph does what torch does, cached or at once, and texts are continued as asked."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cluster.errors import InputError
from jobs.data import vocabulary
from serving.bundle.answer import BundleError
from serving.bundle.files import Folder
from serving.bundle.writing import Writer
from serving.engines import onnxruntime
from serving.models import decoder, decoder_graph
from serving.teachers import Reply
from serving.teachers.causal import CausalParams
from serving.teachers.writing import WritingTeacher, tokenizer_of

TEXTS = ["the cat sat", "a dog ran by the sea", "one bird", "the cat sat on a mat and the dog ran"]
ITEMS = [{"text": text} for text in TEXTS]
WORDS = vocabulary.learned(TEXTS, 270)
SPEC = {
    "task": "text_generation", "continues": True, "tokens": WORDS.ends, "max_tokens": 32, "max_new_tokens": 7,
    "temperature": 0.0, "seed": 0, "threads": 1, "engine": onnxruntime.about(),
}  # fmt: skip
SIZES = {"layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "inner_size": 48}


def qwen3() -> Any:
    return decoder.build(SIZES, WORDS.size, 64, WORDS.ends, 0)


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 32}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS.size, intermediate_size=48, attention_bias=True, **sizes))


@pytest.fixture(scope="module", params=[qwen3, llama])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WritingTeacher, Any]:
    """A bundle's folder, the same model in torch, and what the folder's `bundle.json` would say."""
    model, folder = request.param(), tmp_path_factory.mktemp("bundle")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    spec = SPEC | decoder_graph.export(model, folder)
    Tokenizer.from_str(WORDS.tokenizer.to_str()).save(str(folder / "tokenizer.json"))
    params = CausalParams(max_new_tokens=7, chat_template=False)
    return folder, WritingTeacher(model, tokenizer_of(WORDS.tokenizer, WORDS.ends), params, spec), spec


def test_every_token_of_a_text_is_scored_as_torch_does(pair: tuple[Path, WritingTeacher, Any]) -> None:
    folder, teacher, spec = pair
    ours = Writer(Folder(folder), spec).logits(ITEMS)
    theirs = teacher.complete([teacher.prompt(item) for item in ITEMS])
    for own, reply in zip(ours, theirs, strict=True):
        assert isinstance(reply, Reply) and reply.logits is not None
        np.testing.assert_allclose(own, reply.logits, atol=2e-4)


def test_texts_are_continued_token_by_token_as_torch_does(pair: tuple[Path, WritingTeacher, Any]) -> None:
    folder, teacher, spec = pair
    for mode in (spec, spec | {"continues": False}):
        teacher.spec = mode
        ours, theirs = Writer(Folder(folder), mode).predict(ITEMS), teacher.answer(ITEMS)
        assert [one.text for one in ours] == [one.text for one in theirs]
        np.testing.assert_allclose([a.confidence for a in ours], [a.confidence for a in theirs], rtol=1e-4)
    teacher.spec = spec


def test_a_drawn_answer_is_of_the_text_and_the_seed_alone(pair: tuple[Path, WritingTeacher, Any]) -> None:
    folder, _, spec = pair
    drawing = Writer(Folder(folder), spec | {"temperature": 2.0})
    together = drawing.predict(ITEMS)
    assert [drawing.predict([item])[0].text for item in ITEMS] == [one.text for one in together]
    assert Writer(Folder(folder), spec | {"temperature": 2.0, "seed": 1}).predict(ITEMS) != together


def test_an_answer_ends_at_the_end_token(pair: tuple[Path, WritingTeacher, Any]) -> None:
    folder, _, spec = pair
    tokens, _ = Writer(Folder(folder), spec)._write(ITEMS[:1])[0]
    ending = spec | {"tokens": {"bos": WORDS.bos, "eos": int(tokens[3])}}
    stop = tokens.tolist().index(tokens[3])
    text = Writer(Folder(folder), ending).predict(ITEMS[:1])[0].text
    assert text == WORDS.tokenizer.decode(tokens[:stop].tolist())


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_an_empty_text_is_refused(pair: tuple[Path, WritingTeacher, Any], text: Any) -> None:
    folder, _, spec = pair
    with pytest.raises(BundleError, match="text"):
        Writer(Folder(folder), spec).predict([{"text": text}])


def test_other_families_and_other_rotary_angles_are_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="causal_lm"):
        decoder.load(tmp_path)
    model = qwen3()
    model.config.rope_parameters["rope_type"] = "yarn"
    with pytest.raises(InputError, match="rotary"):
        decoder_graph.export(model, tmp_path)


def test_gpt2s_two_files_are_a_tokenizer(tmp_path: Path, shared_tokenizers: Path) -> None:
    for name in ("gpt2_encoder.json", "gpt2_vocab.bpe"):
        shutil.copy(shared_tokenizers / name, tmp_path)
    own = vocabulary.of_file(str(tmp_path), vocabulary.END)
    assert (own.size, own.eos) == (50257, 50256)
    assert own.tokenizer.decode(own.tokenizer.encode("Hello world\n").ids) == "Hello world\n"


@pytest.fixture
def shared_tokenizers() -> Path:
    """The folder of shared tokenizers; a test that needs it is skipped without."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "tokenizers"
    if not folder.is_dir():
        pytest.skip("needs GPT-2's vocabulary from ../shared")
    return folder
