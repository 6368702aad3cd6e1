"""vLLM as teacher on GPUs through `ray.data.llm`. NOT RUN HERE: written against Ray 2.60's documented API.

No GPU and no vLLM were at hand; what is tested is the contract: the configuration objects, the rows that Ray's own
stages before the engine take, and the reading of the rows that its engine stage gives back.
Shape legend: A answer tokens, N alternatives of all positions.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, JsonValue

from cluster.errors import RecipeError, ResourceError
from cluster.recipe.base import Section
from cluster.recipe.models import ModelSection
from serving import teachers
from serving.bundle.answer import Answer, BundleError
from serving.teachers.budget import Sharing
from serving.teachers.replies import Failure, Reply, TopLogprobs, Usage

ERROR = "__inference_error__"  # Ray's column: empty, or what went wrong with the row


class VllmParams(Section):
    """How vLLM answers (`params` of architecture `vllm`; `weights` is a local folder or hub id)."""

    max_new_tokens: int = Field(256, ge=1, description="longest answer (tokens)")
    top_logprobs: int = Field(16, ge=0, description="alternatives per token beside the one taken (count)")
    system: str | None = Field(None, description="system message; null: none")
    chat_template: bool = Field(True, description="the tokenizer's own template; false: text as it is")
    batch_size: int = Field(64, ge=1, description="rows handed to an engine at once (rows)")
    replicas: int = Field(
        1, ge=1, description="engines side by side (count); each takes engine's parallel sizes of GPUs"
    )
    accelerator: str | None = Field(None, description="Ray's accelerator type, such as H100; null: any")
    engine: dict[str, JsonValue] = Field({}, description="vLLM engine arguments, such as tensor_parallel_size")


class VllmTeacher:
    """Answers through a Ray Data pipeline of its own, so `complete` is called in the driver, never inside an actor."""

    def __init__(self, weights: str, params: VllmParams) -> None:
        self.weights, self.params = weights, params

    @property
    def vocabulary(self) -> None:
        """The engine shows the likeliest tokens only."""
        return

    def prompt(self, item: Mapping[str, Any]) -> str:
        """The text of a request. Raises BundleError for an empty text, and for pictures."""
        text = item.get("text")
        if not isinstance(text, str) or not text.strip():
            raise BundleError(f"text: got {text!r:.80}, expected a non-empty string")
        if item.get("images"):
            raise BundleError("images: this teacher reads text only")
        return text

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """See `Teacher.answer`."""
        return teachers.answers(self, items)

    def complete(
        self, prompts: Sequence[str], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> list[Reply | Failure]:
        """A reply or failure per prompt, in order; needs a connection to Ray with GPUs.

        Raises ValueError when drawing without seeds.
        """
        import ray.data

        if temperature > 0 and seeds is None:
            raise ValueError("a temperature above 0 needs one seed per row")
        if not prompts:
            return []
        rows = [
            {"row": row, "text": text, "temperature": temperature, "seed": 0 if seeds is None else seeds[row]}
            for row, text in enumerate(prompts)
        ]
        done = processor(self.weights, self.params)(ray.data.from_items(rows)).take_all()
        by_row = {int(row["row"]): reply(row) for row in done}  # Ray Data keeps no order
        lost = Failure("lost", "the engine gave no row back", 1)
        return [by_row.get(row, lost) for row in range(len(prompts))]


def config(weights: str, params: VllmParams) -> Any:
    """Ray's `vLLMEngineProcessorConfig`. A row that fails is given back with its error and ends nothing."""
    from ray.data.llm import vLLMEngineProcessorConfig

    # raw_logprobs: log-probabilities of the model itself, before temperature; confidence is at T=1 then.
    engine = {"max_logprobs": max(1, params.top_logprobs), "logprobs_mode": "raw_logprobs", **params.engine}
    return vLLMEngineProcessorConfig(
        model_source=weights,
        engine_kwargs=engine,
        batch_size=params.batch_size,
        concurrency=params.replicas,
        accelerator_type=params.accelerator,
        should_continue_on_error=True,
        chat_template_stage=params.chat_template,
        tokenize_stage=True,
        detokenize_stage=False,  # vLLM does it, and names the alternatives by it
    )


def processor(weights: str, params: VllmParams) -> Any:
    """A function from a dataset with columns row, text, temperature, seed to one that `reply` reads, for a pipeline of
    the caller's own (`jobs generate` at cluster scale). Other columns are dropped. Connects to Ray when it is not."""
    from ray.data.llm import build_processor

    before = functools.partial(request, params=params)
    return build_processor(config(weights, params), preprocess=before, postprocess=packed)


def request(row: Mapping[str, Any], params: VllmParams) -> dict[str, Any]:
    """What Ray's stages take for a row: `messages` (or `prompt`) and `sampling_params`, and `row` to know it again."""
    sampling = {
        "temperature": float(row["temperature"]),
        "max_tokens": params.max_new_tokens,
        "logprobs": params.top_logprobs,
        "seed": int(row["seed"]),
    }
    about = {"row": row["row"], "sampling_params": sampling}
    if not params.chat_template:
        return about | {"prompt": row["text"]}
    system = [] if params.system is None else [{"role": "system", "content": params.system}]
    return about | {"messages": [*system, {"role": "user", "content": row["text"]}]}


def packed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Plain columns of the engine's row: a dict per token is some 30 times slower to build and 6 times larger in Arrow
    (findings/methods.md, section 4)."""
    tokens = [int(token) for token in row["generated_tokens"]]
    positions = [_alternatives(one) for one in row["logprobs"]] if row.get("logprobs") is not None else []
    flat = [one for alternatives in positions for one in alternatives.items()]
    return {
        "row": row["row"],
        "text": row["generated_text"],
        "tokens": tokens,
        "read": int(row["num_input_tokens"]),
        "chosen": [alternatives[token][0] for token, alternatives in zip(tokens, positions, strict=False)],
        "counts": [len(alternatives) for alternatives in positions],
        "ids": [token for token, _ in flat],
        "logprobs": [value for _, (value, _) in flat],
        "words": [word for _, (_, word) in flat],
    }


def reply(row: Mapping[str, Any]) -> Reply | Failure:
    """What a row of the finished pipeline says."""
    if row.get(ERROR):
        return Failure("engine", " ".join(str(row[ERROR]).split())[:300], 1)
    tokens = np.asarray(row["tokens"], np.int64)
    if not len(tokens):
        return Failure("empty", "the engine wrote no token", 1)
    top = None
    if len(row["chosen"]):
        top = TopLogprobs(
            np.asarray(row["chosen"], np.float32), np.asarray(row["counts"], np.int32),
            np.asarray(row["logprobs"], np.float32), tuple(row["words"]), np.asarray(row["ids"], np.int64),
        )  # fmt: skip
    usage = Usage(int(row["read"]), len(tokens))
    return Reply(str(row["text"]), None if top is None else top.confidence, tokens, top=top, usage=usage)


def check_section(section: ModelSection, at: str) -> None:
    """See `teachers.check`. Raises ResourceError where vLLM is not installed."""
    VllmParams.parse(section.params, at=f"{at}.params")
    if section.weights is None:
        raise RecipeError(f"{at}.weights is needed", got="null", expected="a local folder or a hub id")
    if importlib.util.find_spec("vllm") is None:
        hint = "pip install 'ray[llm]==2.60.0' on machines with GPUs, or architecture causal_lm or openai"
        raise ResourceError(f"{at}.architecture: vllm is not installed", expected="vLLM and a GPU", hint=hint)


def open_section(section: ModelSection, sharing: Sharing, at: str) -> VllmTeacher:
    """See `teachers.open_teacher`; `sharing` means nothing here: engines are `replicas`."""
    return VllmTeacher(str(section.weights), VllmParams.parse(section.params, at=f"{at}.params"))


def _alternatives(position: Mapping[Any, Any]) -> dict[int, tuple[float, str]]:
    """Log-probability and text by token id. Arrow turns a dict into a struct: keys may come as text, absent as None."""
    return {
        int(token): (float(about["logprob"]), str(about.get("decoded_token") or ""))
        for token, about in position.items()
        if about is not None
    }
