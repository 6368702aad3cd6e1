"""The contract with `ray.data.llm`: Ray's own configuration and stages, without vLLM; its engine is not run here."""

import asyncio
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import ResourceError
from cluster.recipe.models import ModelSection
from serving import teachers
from serving.bundle.answer import BundleError
from serving.teachers import Failure, Reply, vllm
from serving.teachers.vllm import VllmParams, VllmTeacher

# Ray 2.60's own models are written for an older pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@dataclasses.dataclass
class Logprob:
    """The fields of vLLM's own `Logprob`."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


def engine_row(params: VllmParams, **changes: Any) -> dict[str, Any]:
    """A row as Ray's engine stage gives it back: what went in and its `vLLMOutputData`."""
    from ray.llm._internal.batch.stages.vllm_engine_stage import _convert_logprob_dict, vLLMOutputData

    told = [
        {5: Logprob(-0.1, 1, "ye"), 7: Logprob(-2.0, 2, "no")},
        {9: Logprob(-4.0, 8, "s"), 5: Logprob(-0.2, 1, "ye")},
    ]
    out = vLLMOutputData(
        prompt="where", prompt_token_ids=[1, 2, 3], num_input_tokens=3, generated_tokens=[5, 9],
        generated_text="yes", num_generated_tokens=2, logprobs=[_convert_logprob_dict(one) for one in told],
    )  # fmt: skip
    sent = vllm.request({"row": 4, "text": "where", "temperature": 0.7, "seed": 11}, params)
    return {**sent, **out.model_dump(), "__inference_error__": "", **changes}


def finish(data: dict[str, Any]) -> Reply | Failure:
    """Through Ray's own wrapper of the last function, as its pipeline calls it."""
    from ray.llm._internal.batch.stages.base import wrap_postprocess

    row = wrap_postprocess(vllm.packed, "__data", include_error_column=True)({"__data": data})
    return vllm.reply(row)


def test_the_configuration_is_one_that_ray_takes() -> None:
    params = VllmParams(top_logprobs=32, batch_size=16, replicas=2, accelerator="H100",
                        engine={"tensor_parallel_size": 2, "dtype": "bfloat16"})  # fmt: skip
    made = vllm.config("/models/teacher", params)
    assert type(made).__name__ == "vLLMEngineProcessorConfig"
    assert (made.model_source, made.batch_size, made.concurrency) == ("/models/teacher", 16, 2)
    assert made.should_continue_on_error and made.accelerator_type == "H100" and not made.detokenize_stage
    kept = {
        name: made.engine_kwargs[name] for name in ("max_logprobs", "logprobs_mode", "tensor_parallel_size", "dtype")
    }
    assert kept == {"max_logprobs": 32, "logprobs_mode": "raw_logprobs", "tensor_parallel_size": 2, "dtype": "bfloat16"}


def test_rays_own_stages_take_the_rows_up_to_the_engine(gpt2_folder: Path) -> None:
    from ray.llm._internal.batch.stages import vLLMEngineStage
    from ray.llm._internal.batch.stages.base import wrap_preprocess
    from ray.llm._internal.batch.stages.chat_template_stage import ChatTemplateUDF
    from ray.llm._internal.batch.stages.tokenize_stage import TokenizeUDF
    from transformers import AutoTokenizer

    before = wrap_preprocess(lambda row: vllm.request(row, VllmParams(system="be brief", top_logprobs=3)), "__data")
    row = before({"row": 4, "text": "where is it", "temperature": 0.7, "seed": 11})["__data"]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    made = {"data_column": "__data", "expected_input_keys": ["prompt"], "model": str(gpt2_folder)}

    async def through(stage: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**rows[0], **one} async for one in stage.udf(rows)]

    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    chat = ChatTemplateUDF.__new__(ChatTemplateUDF)  # its constructor wants a processor; the tokenizer has the template
    chat.processor, chat.chat_template, chat.chat_template_kwargs = tokenizer, template, None
    (row,) = asyncio.run(through(chat, [{**row, "__idx_in_batch": 0}]))
    (row,) = asyncio.run(through(TokenizeUDF(**made), [row]))
    assert tokenizer.decode(row["tokenized_prompt"]) == "<system>be brief<user>where is it"
    assert (
        row["sampling_params"] == {"temperature": 0.7, "max_tokens": 256, "logprobs": 3, "seed": 11} and row["row"] == 4
    )
    wanted = set(vLLMEngineStage.get_required_input_keys(vLLMEngineStage.model_construct()))
    assert wanted <= set(row)


def test_without_a_template_the_text_goes_as_it_is() -> None:
    row = vllm.request({"row": 0, "text": "once", "temperature": 0.0, "seed": 0}, VllmParams(chat_template=False))
    assert row["prompt"] == "once" and "messages" not in row
    assert vllm.config("m", VllmParams(chat_template=False)).chat_template_stage is False


def test_an_engine_row_becomes_a_reply_with_packed_alternatives() -> None:
    reply = finish(engine_row(VllmParams()))
    assert isinstance(reply, Reply) and reply.text == "yes" and reply.tokens.tolist() == [5, 9]
    np.testing.assert_allclose(reply.top.chosen, [-0.1, -4.0], rtol=1e-6)
    assert reply.confidence == pytest.approx(np.exp(-2.05), rel=1e-6)
    assert reply.top.counts.tolist() == [2, 2] and reply.top.ids.tolist() == [5, 7, 9, 5]
    assert reply.top.words == ("ye", "no", "s", "ye") and reply.logits is None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 2)


def test_what_arrow_makes_of_token_dicts_is_read_too() -> None:
    about = {"logprob": -0.5, "rank": 1, "decoded_token": "a"}
    row = engine_row(VllmParams(), generated_tokens=[5], logprobs=[{"5": about, "7": None}])
    reply = finish(row)
    assert reply.top.ids.tolist() == [5] and reply.confidence == pytest.approx(np.exp(-0.5))


def test_a_failed_row_and_an_empty_one_are_failures_and_no_logprobs_no_confidence() -> None:
    failed = finish(engine_row(VllmParams(), __inference_error__="ValueError: prompt\n too long", generated_tokens=[]))
    assert failed == Failure("engine", "ValueError: prompt too long", 1)
    assert finish(engine_row(VllmParams(), generated_tokens=[], logprobs=None)).reason == "empty"
    plain = finish(engine_row(VllmParams(), logprobs=None))
    assert plain.confidence is None and plain.top is None and plain.text == "yes"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_is_refused_before_anything_starts() -> None:
    section = ModelSection(architecture="vllm", weights="some/model")
    with pytest.raises(ResourceError, match="vllm is not installed") as raised:
        teachers.open_teacher(section)
    assert "ray[llm]" in str(raised.value)


def test_unreadable_requests_are_refused_and_draws_need_seeds() -> None:
    teacher = VllmTeacher("m", VllmParams())
    for item in ({"text": ""}, {}, {"text": "a", "images": [b"x"]}):
        with pytest.raises(BundleError):
            teacher.prompt(item)
    with pytest.raises(ValueError, match="one seed per row"):
        teacher.complete(["a"], 0.7)
    assert teacher.complete([]) == [] and teacher.vocabulary is None


@pytest.fixture
def built(ray_cluster: Any, gpt2_folder: Path) -> Any:
    return vllm.processor(str(gpt2_folder), VllmParams(top_logprobs=3, engine={"tensor_parallel_size": 2}))


@pytest.mark.slow
def test_ray_builds_the_pipeline_with_the_engines_arguments(built: Any) -> None:
    assert built.list_stage_names() == ["ChatTemplateStage", "TokenizeStage", "vLLMEngineStage"]
    stage = built.get_stage_by_name("vLLMEngineStage")
    arguments = stage.fn_constructor_kwargs
    assert arguments["should_continue_on_error"] and arguments["engine_kwargs"]["max_logprobs"] == 3
    assert arguments["engine_kwargs"]["distributed_executor_backend"] == "ray"  # two GPUs per engine
