"""Qwen3-Omni thinker (MoE; text, image, video, audio): built from a config, run on packed batches, decoded.

The shape is that of `Qwen3OmniMoeThinkerForConditionalGeneration`, so a recipe written for this file's small models
takes the public Qwen3-Omni weights on a GPU cluster. Pictures of one batch share a grid and sounds a length, so a
tower's attention is one call per layer instead of one per picture or sound. A pair of frames is a picture to the tower.

Shape legend: B rows, S tokens, N pictures and pairs of frames, L patches, F patch features, T tokens of media in the
batch, H hidden size, R response tokens, V vocabulary, Q scored positions, D sounds, M mel bands, W frames of a sound.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from cluster.errors import MismatchError
from cluster.recipe.base import Section
from serving.bundle.pictures import Media
from serving.bundle.sounds import CHUNK

Thinker: TypeAlias = Any  # Qwen3OmniMoeThinkerForConditionalGeneration, which transformers builds and types loosely

UNIFORM = "uniform_flash_attention"  # "flash" in the name makes transformers hand over the whole batch in one call


class OmniParams(Section):
    """Shape of one model; sizes in units of the named thing, source of each: Qwen3-Omni's config fields."""

    layers: int = Field(3, ge=1, description="decoder layers")
    hidden_size: int = Field(128, ge=8, description="decoder width")
    heads: int = Field(4, ge=1, description="query heads")
    kv_heads: int = Field(4, ge=1, description="key/value heads")
    head_dim: int = Field(32, ge=6, description="size of one head")
    experts: int = Field(4, ge=1, description="experts per layer")
    experts_per_token: int = Field(2, ge=1, description="experts used per token")
    expert_size: int = Field(128, ge=8, description="inner width of one expert")
    vision_layers: int = Field(3, ge=1, description="vision encoder layers")
    vision_size: int = Field(64, ge=8, description="vision encoder width")
    vision_heads: int = Field(4, ge=1, description="vision attention heads")
    audio_layers: int = Field(2, ge=1, description="audio encoder layers; unused without sounds")
    audio_size: int = Field(64, ge=8, multiple_of=2, description="audio encoder width; unused without sounds")
    audio_heads: int = Field(4, ge=1, description="audio attention heads; unused without sounds")
    audio_channels: int = Field(16, ge=2, description="channels of its convolutions; unused without sounds")
    init_range: float = Field(0.02, gt=0, lt=1, description="standard deviation of fresh weights; Qwen3-Omni's is 0.02")


@dataclass(frozen=True)
class Generated:
    """Greedy or sampled answers of a batch: tokens int64 [B, R], logits float32 [B, R, V] that chose them, the last
    hidden state [B, R, H] at the same positions, and the number of tokens up to and with the end, [B]."""

    tokens: Tensor
    logits: Tensor
    hidden: Tensor
    lengths: Tensor


def build(params: Mapping[str, Any], tokens: Mapping[str, int], vocabulary: int, media: Media, seed: int) -> nn.Module:
    """A freshly initialised model; the same seed gives the same weights.

    `tokens` names the special ids (image, audio, video, vision_start, vision_end, pad, eos). Raises MismatchError
    when heads do not divide.
    """
    from transformers import Qwen3OmniMoeThinkerForConditionalGeneration
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

    p, picture = OmniParams.model_validate(params), media.picture
    if p.heads % p.kv_heads:
        raise MismatchError("heads must be a multiple of kv_heads", got=f"{p.heads} and {p.kv_heads}")
    if p.vision_size % (4 * p.vision_heads):
        got = f"{p.vision_size} and {p.vision_heads}"
        raise MismatchError("vision_size must be a multiple of 4 x vision_heads", got=got)
    third = p.head_dim // 6
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [p.head_dim // 2 - 2 * third, third, third]}
    text = {
        "vocab_size": vocabulary, "hidden_size": p.hidden_size, "intermediate_size": 2 * p.hidden_size,
        "num_hidden_layers": p.layers, "num_attention_heads": p.heads, "num_key_value_heads": p.kv_heads,
        "head_dim": p.head_dim, "moe_intermediate_size": p.expert_size, "num_experts": p.experts,
        "num_experts_per_tok": p.experts_per_token, "max_position_embeddings": 512, "rope_parameters": rope,
        "pad_token_id": tokens["pad"], "eos_token_id": tokens["eos"], "initializer_range": p.init_range,
    }  # fmt: skip
    vision = {
        "depth": p.vision_layers, "hidden_size": p.vision_size, "intermediate_size": 2 * p.vision_size,
        "num_heads": p.vision_heads, "in_channels": picture.channels, "patch_size": picture.patch,
        "temporal_patch_size": picture.temporal, "spatial_merge_size": picture.merge, "out_hidden_size": p.hidden_size,
        "num_position_embeddings": picture.grid**2, "deepstack_visual_indexes": [], "initializer_range": p.init_range,
    }  # fmt: skip
    audio = _audio(p, media) | {"output_dim": p.hidden_size}
    # Positions in time are made here and in a bundle by `clips.stride`; the config says the same to transformers.
    fields: dict[str, Any] = {} if media.clip is None else {"position_id_per_seconds": media.clip.per_second}
    fields |= {
        **{f"{name}_config": part for name, part in (("text", text), ("vision", vision), ("audio", audio))},
        **{f"{name}_token_id": tokens[name] for name in ("image", "video", "audio", "vision_start", "audio_start")},
    }
    torch.manual_seed(seed)
    model: Thinker = Qwen3OmniMoeThinkerForConditionalGeneration(Qwen3OmniMoeThinkerConfig(**fields))
    if media.sound is not None:
        _hear(model.model.audio_tower)
    return _ready(model)


def _hear(tower: Any) -> None:
    """Fresh convolutions that hand a sound on as loud as it is (arXiv 1502.01852, section 2.2).

    The one standard deviation for all weights leaves 0.0015 of it beside positions of size 1: spoken digits (fsdd),
    150 steps of the tower alone, validation .65 so and .94 with these.
    """
    for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.normal_(tower.conv_out.weight, std=2 * tower.conv_out.in_features**-0.5)


def _audio(p: OmniParams, media: Media) -> dict[str, Any]:
    """The audio tower's config; it is part of the architecture, and without sounds as small as it goes."""
    if media.sound is None:
        return {
            "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 4, "d_model": 4,
            "downsample_hidden_size": 2, "max_source_positions": 16, "n_window": 4,
        }  # fmt: skip
    if p.audio_size % p.audio_heads:
        raise MismatchError("audio_size must be a multiple of audio_heads", got=f"{p.audio_size} and {p.audio_heads}")
    # transformers counts a full chunk as 13 tokens, which is true of 100 frames only: its window stays at that.
    return {
        "num_mel_bins": media.sound.mels, "encoder_layers": p.audio_layers, "encoder_attention_heads": p.audio_heads,
        "encoder_ffn_dim": 2 * p.audio_size, "d_model": p.audio_size, "downsample_hidden_size": p.audio_channels,
        "max_source_positions": CHUNK, "n_window": CHUNK // 2, "n_window_infer": 8 * CHUNK,
        "initializer_range": p.init_range,
    }  # fmt: skip


def load(folder: str | Path) -> nn.Module:
    """A model from a Hugging Face folder or hub id, ready for `scored` and `generate`."""
    from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

    return _ready(Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(str(folder)))


def features(model: Thinker, batch: Mapping[str, Tensor]) -> Tensor:
    """Features of all media [1 + T, H]: pictures, video, sounds. Row 0 is zero, the row that text tokens point to.

    `batch`: pixels [N, L, F] and, where there are sounds, mels [D, M, W].
    """
    pixels_NLF, mels = batch["pixels"], batch.get("mels")
    found = [pixels_NLF.new_zeros(1, model.config.text_config.hidden_size)]
    if len(pixels_NLF):
        grid = int(pixels_NLF.shape[1] ** 0.5)
        grid_N3 = torch.tensor([[1, grid, grid]]).expand(len(pixels_NLF), 3)
        found.append(model.model.visual(pixels_NLF.flatten(0, 1), grid_thw=grid_N3).pooler_output)
    if mels is not None and len(mels):
        lengths = torch.full((len(mels),), mels.shape[2])
        found.append(model.model.audio_tower(mels.transpose(0, 1).flatten(1), feature_lens=lengths).pooler_output)
    return torch.cat(found) if len(found) > 1 else found[0]


def hidden_states(model: Thinker, ids_BS: Tensor, positions_3BS: Tensor, index_BS: Tensor, visual_TH: Tensor,
                  cache: Any = None) -> Tensor:  # fmt: skip
    """The decoder's last hidden state [B, S, H] (after the final norm), image features put in by index."""
    decoder = model.model.language_model
    embedded = torch.where((index_BS > 0)[..., None], visual_TH[index_BS], decoder.embed_tokens(ids_BS))
    out = decoder(
        inputs_embeds=embedded, position_ids=positions_3BS, past_key_values=cache, use_cache=cache is not None
    )
    hidden_BSH: Tensor = out.last_hidden_state
    return hidden_BSH


def scored(model: Thinker, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [Q, V] and last hidden state [Q, H] at the positions that predict response tokens.

    `batch`: input_ids and visual_index [B, S], position_ids [3, B, S], what `features` reads, scored int64 [Q] (flat
    row * S + position). Rows are padded on the right; under a causal mask no real token sees padding.
    """
    visual_TH = features(model, batch)
    hidden_BSH = hidden_states(model, batch["input_ids"], batch["position_ids"], batch["visual_index"], visual_TH)
    hidden_QH = hidden_BSH.flatten(0, 1)[batch["scored"]]
    return model.lm_head(hidden_QH), hidden_QH


@torch.no_grad()
def generate(model: Thinker, batch: Mapping[str, Tensor], max_new_tokens: int, eos: int,
             noise: Sequence[Tensor] | None = None, temperature: float = 0.0) -> Generated:  # fmt: skip
    """Free generation for prompts of one length (no padding): greedy, or Gumbel sampling with the caller's noise.

    `noise`: per step a float tensor [B, V] of standard Gumbel draws, so that a row's stream does not depend on its
    batch; `temperature` is the generation temperature (not the distillation temperature).
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.text_config)
    visual_TH = features(model, batch)
    ids, positions, index = batch["input_ids"], batch["position_ids"], batch["visual_index"]
    done = torch.zeros(len(ids), dtype=torch.bool)
    tokens: list[Tensor] = []
    logits: list[Tensor] = []
    hidden: list[Tensor] = []
    for step in range(max_new_tokens):
        hidden_BH = hidden_states(model, ids, positions, index, visual_TH, cache)[:, -1]
        logits_BV = model.lm_head(hidden_BH).float()
        scores = logits_BV if noise is None else logits_BV / temperature + noise[step]
        token_B = torch.where(done, torch.full_like(done, eos, dtype=torch.long), scores.argmax(-1))
        for kept, value in ((tokens, token_B), (logits, logits_BV), (hidden, hidden_BH)):
            kept.append(value)
        done = done | (token_B == eos)
        if bool(done.all()):
            break
        ids, index, positions = token_B[:, None], torch.zeros_like(token_B)[:, None], positions[:, :, -1:] + 1
    stacked = torch.stack(tokens, 1)
    lengths = ((stacked == eos).cumsum(1) == 0).sum(1) + 1
    return Generated(stacked, torch.stack(logits, 1), torch.stack(hidden, 1), lengths.clamp(max=stacked.shape[1]))


def merge_kv_heads(model: Thinker, kv_heads: int) -> nn.Module:
    """The same model with its key/value heads mean-pooled down to `kv_heads` (GQA up-training, arXiv 2305.13245, 2.1).

    Raises MismatchError when the number does not divide what is there.
    """
    config = copy.deepcopy(model.config)
    have = config.text_config.num_key_value_heads
    if have % kv_heads:
        raise MismatchError(
            "kv_heads must divide the student's key/value heads", got=kv_heads, expected=f"a divisor of {have}"
        )
    config.text_config.num_key_value_heads = kv_heads
    state = model.state_dict()
    for name, value in state.items():
        if ".language_model." in name and name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = value.view(kv_heads, have // kv_heads, config.text_config.head_dim, -1)
            state[name] = heads.mean(1).reshape(kv_heads * config.text_config.head_dim, -1)
    return rebuilt(model, config, state)


def rebuilt(model: Thinker, config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """A thinker with another config, which is changed, and these parameters. Raises RuntimeError where they do not
    fit."""
    for tower in (config.vision_config, config.audio_config):
        tower._attn_implementation = "sdpa"  # a constructor looks a "flash" name up on the hub; _ready sets ours
    fresh = _ready(type(model)(config))
    fresh.load_state_dict(dict(state))
    return fresh


def kv_bytes_per_token(model: Thinker) -> int:
    """Bytes one token keeps in a float32 key/value cache: 2 x layers x KV heads x head size x 4."""
    text = model.config.text_config
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4)


def _ready(model: Thinker) -> nn.Module:
    """Attention and experts in the forms that are fast for many small pictures on a CPU."""
    from transformers import AttentionInterface

    AttentionInterface.register(UNIFORM, _uniform_attention)
    for tower in (model.model.visual, model.model.audio_tower):
        tower.config._attn_implementation = UNIFORM
    if not torch.cuda.is_available():
        model.set_experts_implementation("eager")  # 1.2x of grouped_mm at 1,280 tokens on one core
    ready: nn.Module = model
    return ready


def _uniform_attention(module: nn.Module, *query_key_value: Tensor, **given: Any) -> tuple[Tensor, None]:
    """Attention within each picture or sound, all of one size: [1, heads, N*L, D] -> [1, N*L, heads, D].

    transformers' attention interface; of what it passes, `max_length_q` (L) and `scaling` are read.
    """
    _, heads, total, size = query_key_value[0].shape
    length = int(given["max_length_q"])
    query, key, value = (t.view(heads, total // length, length, size).transpose(0, 1) for t in query_key_value[:3])
    out = nn.functional.scaled_dot_product_attention(query, key, value, scale=given["scaling"])
    return out.permute(0, 2, 1, 3).reshape(1, total, heads, size), None
