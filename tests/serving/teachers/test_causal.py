"""A causal language model answers: alone or in any batch the same, in a chat template, with logits or a packer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import MismatchError, RecipeError
from cluster.recipe import ModelSection
from serving import teachers
from serving.bundle.answer import BundleError
from serving.teachers import decoding
from serving.teachers.causal import CausalParams, CausalTeacher

TEXTS = ["where is my card", "the quick brown fox", "hello", "a lazy dog asks where the card was sent", "fox", "ab cd"]


def opened(folder: Path, **params: Any) -> CausalTeacher:
    given = {"max_new_tokens": 8, "device": "cpu", **params}
    section = ModelSection(architecture="causal_lm", weights=str(folder), params=given)
    teacher = teachers.open_teacher(section)
    assert isinstance(teacher, CausalTeacher)
    return teacher


@pytest.fixture(scope="session")
def teacher(gpt2_folder: Path) -> CausalTeacher:
    return opened(gpt2_folder, keep_hidden=True)


def with_params(teacher: CausalTeacher, **changes: Any) -> CausalTeacher:
    params = teacher.params.model_copy(update=changes)
    return CausalTeacher(teacher.model, teacher.tokenizer, params)


def test_greedy_tokens_are_those_of_transformers_own_generate(teacher: CausalTeacher) -> None:
    prompts = [teacher.prompt({"text": text}) for text in TEXTS]
    for prompt, reply in zip(prompts, teacher.complete(prompts), strict=True):
        ids = torch.from_numpy(prompt)[None]
        theirs = teacher.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
        )[0, len(prompt) :]
        assert reply.tokens.tolist() == theirs.tolist()


def test_logits_are_those_of_one_forward_pass_over_prompt_and_answer(teacher: CausalTeacher) -> None:
    prompt = teacher.prompt({"text": TEXTS[0]})
    (reply,) = teacher.complete([prompt], 0.9, [5])
    with torch.no_grad():
        out = teacher.model(torch.from_numpy(np.concatenate([prompt, reply.tokens]))[None], output_hidden_states=True)
    scored = slice(len(prompt) - 1, len(prompt) - 1 + len(reply.tokens))
    np.testing.assert_allclose(reply.logits, out.logits[0, scored].numpy(), atol=2e-4)
    np.testing.assert_allclose(reply.hidden, out.hidden_states[-1][0, scored].numpy(), atol=2e-4)
    logprobs = out.logits[0, scored].log_softmax(-1).numpy()[np.arange(len(reply.tokens)), reply.tokens]
    assert reply.confidence == pytest.approx(float(np.exp(logprobs.mean())), rel=1e-3)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (len(prompt), len(reply.tokens))


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 2, "batching": "left_pad"},
                                     {"batch_size": 6, "batching": "left_pad"}])  # fmt: skip
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_an_answer_does_not_depend_on_its_batch(teacher: CausalTeacher, changes: Any, temperature: float) -> None:
    prompts, seeds = [teacher.prompt({"text": text}) for text in TEXTS], [11, 12, 13, 14, 15, 16]
    whole = teacher.complete(prompts, temperature, seeds)
    other = with_params(teacher, **changes).complete(prompts, temperature, seeds)
    for one, two in zip(whole, other, strict=True):
        assert one.tokens.tolist() == two.tokens.tolist() and one.text == two.text
        np.testing.assert_allclose(one.logits, two.logits, atol=1e-3)


def test_another_seed_gives_another_answer_and_the_same_seed_the_same(teacher: CausalTeacher) -> None:
    prompt = teacher.prompt({"text": TEXTS[0]})
    one, two, three = teacher.complete([prompt] * 3, 1.0, [1, 2, 1])
    assert one.tokens.tolist() == three.tokens.tolist() != two.tokens.tolist()
    with pytest.raises(ValueError, match="one seed per row"):
        teacher.complete([prompt], 1.0)


def test_a_row_ends_at_its_end_token_and_the_others_go_on(teacher: CausalTeacher) -> None:
    prompts = [teacher.prompt({"text": text}) for text in TEXTS]
    full = teacher.complete(prompts)
    stopping = with_params(teacher, batching="left_pad")
    stopping.ends = frozenset({int(reply.tokens[2]) for reply in full[:3]})
    for reply, before in zip(stopping.complete(prompts), full, strict=True):
        hits = [at for at, token in enumerate(before.tokens) if int(token) in stopping.ends]
        length = hits[0] + 1 if hits else len(before.tokens)
        assert reply.tokens.tolist() == before.tokens[:length].tolist()
        assert len(reply.logits) == length


def test_a_packer_sees_every_steps_logits_and_none_are_kept(teacher: CausalTeacher) -> None:
    prompts = [teacher.prompt({"text": text}) for text in TEXTS]
    seen: dict[int, list[tuple[np.ndarray, int]]] = {row: [] for row in range(len(prompts))}

    def packer(rows: Any, logits_BV: Any, token_B: Any) -> None:
        for row, logits, token in zip(rows, logits_BV, token_B, strict=True):
            seen[row].append((logits.numpy().copy(), int(token)))

    plain, packed = teacher.complete(prompts), teacher.complete(prompts, packer=packer)
    for row, (one, two) in enumerate(zip(plain, packed, strict=True)):
        assert two.logits is None and two.text == one.text
        assert [token for _, token in seen[row]] == one.tokens.tolist()
        np.testing.assert_array_equal(np.stack([logits for logits, _ in seen[row]]), one.logits)


@given(logits=st.lists(st.floats(-8, 8), min_size=2, max_size=6), uniform=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(logits: list[float], uniform: float) -> None:
    p = np.exp(np.array(logits, np.float32).astype(np.float64) / 0.7)
    edges = np.cumsum(p / p.sum())
    token = int(decoding.choose(torch.tensor([logits]), 0.7, np.array([uniform]))[0])
    assert edges[token] >= uniform - 1e-9 and (token == 0 or edges[token - 1] <= uniform + 1e-9)


def test_draws_follow_the_tempered_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(20_000, 1)
    tokens = decoding.choose(logits, 2.0, np.random.default_rng(0).random(20_000))
    shares = np.bincount(tokens.numpy(), minlength=3) / 20_000
    np.testing.assert_allclose(shares, torch.tensor([0.0, 0.5, 1.0]).softmax(0).numpy(), atol=0.015)


def test_the_chat_template_is_used_where_the_tokenizer_has_one(teacher: CausalTeacher) -> None:
    each = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    teacher.tokenizer.chat_template = each + "{% if add_generation_prompt %}<bot>{% endif %}"
    try:
        chat = with_params(teacher, system="be brief")
        assert teacher.tokenizer.decode(chat.prompt({"text": "hello"})) == "<system>be brief<user>hello<bot>"
        plain = with_params(teacher, chat_template=False)
        assert teacher.tokenizer.decode(plain.prompt({"text": "hello"})) == "hello"
    finally:
        teacher.tokenizer.chat_template = None


@pytest.mark.parametrize("item", [{"text": " "}, {}, {"text": "a", "images": [b"x"]}, {"text": "fox " * 120}])
def test_a_request_that_cannot_be_read_is_refused_by_itself(teacher: CausalTeacher, item: Any) -> None:
    with pytest.raises(BundleError, match="text"):
        teacher.prompt(item)


def test_serving_gets_text_and_confidence(teacher: CausalTeacher) -> None:
    (answer,) = teacher.answer([{"text": "where is my card"}])
    assert answer.text and 0 < answer.confidence <= 1


def test_bfloat16_answers_and_is_chosen_by_measure_only_when_asked(gpt2_folder: Path) -> None:
    half = opened(gpt2_folder, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half.complete([half.prompt({"text": "hello"})])[0].logits.dtype == np.float32
    assert opened(gpt2_folder).model.dtype == torch.float32
    rates = decoding.measure(opened(gpt2_folder).model, rows=2, length=8)
    assert set(rates) == {"float32", "bfloat16"} and all(rate > 0 for rate in rates.values())
    assert opened(gpt2_folder, dtype="fastest").model.dtype in (torch.float32, torch.bfloat16)


def test_a_folder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="no causal language model"):
        opened(tmp_path)
    with pytest.raises(RecipeError, match="no such folder"):
        opened(tmp_path / "absent")
    with pytest.raises(RecipeError, match=r"unknown key teacher.params.max_tokens"):
        opened(tmp_path, max_tokens=3)


def test_a_tokenizer_larger_than_the_model_is_refused(teacher: CausalTeacher) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=16))
    with pytest.raises(MismatchError, match="more tokens than the model"):
        CausalTeacher(small, teacher.tokenizer, CausalParams())
    assert len(teacher.vocabulary) == teacher.size
