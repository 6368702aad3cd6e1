"""The Qwen3-Omni thinker's towers and decoder, written for small ONNX graphs over a trained model's weights.

transformers' own forward exports to twice the nodes, most of them about shapes, and at these sizes a node costs more
than its arithmetic. Here shapes are constants of the graph, what depends on the picture grid alone is computed once,
and one decoder graph is prefill and decode at once: prefill is decode with a past of length 0.

Shape legend: B rows, S new tokens, P cached tokens, N pictures, L patches of a picture, M image tokens of a picture,
F patch features, T tokens of media in the batch, H hidden size, V vocabulary, Q query heads, K key/value heads,
G = Q / K, D head size; in `Hearing` D sounds, M mel bands, W frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import MismatchError
from serving.bundle.pictures import Picture
from serving.bundle.sounds import Sound
from serving.models.cached import CachedLayers
from serving.models.nodes import half_turned, joined, reshape, rotate


class Vision(nn.Module):
    """Pixels [N, L, F] to image features [N, M, H] for pictures of one grid."""

    def __init__(self, model: Any, picture: Picture) -> None:
        """Raises MismatchError for a tower with deepstack features, which the decoder here does not take."""
        super().__init__()
        from transformers import vision_utils

        tower = model.model.visual
        if tower.deepstack_visual_indexes:
            raise MismatchError("deepstack features cannot be exported", got=list(tower.deepstack_visual_indexes))
        self.heads = tower.config.num_heads
        self.size = tower.config.hidden_size // self.heads
        self.blocks, self.merger = tower.blocks, tower.merger
        # Patches do not overlap, so the convolution is a matrix product.
        self.kernel = nn.Parameter(tower.patch_embed.proj.weight.detach().flatten(1))
        self.bias = tower.patch_embed.proj.bias
        grid_13 = torch.tensor([[1, picture.grid, picture.grid]])
        index, weight = vision_utils.get_vision_interpolation_indices_and_weights(
            grid_13, num_grid_per_side=tower.num_grid_per_side, mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners, spatial_merge_size=tower.spatial_merge_size,
        )  # fmt: skip
        place = vision_utils.get_vision_position_ids(grid_13, tower.spatial_merge_size)
        with torch.no_grad():
            cos_LD, sin_LD = tower.rotary_pos_emb(self.kernel, place)
            embedded_LH = (tower.pos_embed(index) * weight[:, :, None]).sum(1)
        self.cos, self.sin = nn.Buffer(cos_LD), nn.Buffer(sin_LD * half_turned(self.size))
        self.embedded = nn.Buffer(embedded_LH)

    def forward(self, pixels_NLF: Tensor) -> Tensor:
        """Image features [N, M, H]."""
        hidden = nn.functional.linear(pixels_NLF, self.kernel, self.bias) + self.embedded
        for block in self.blocks:
            hidden = hidden + self._attention(block.attn, block.norm1(hidden))
            hidden = hidden + block.mlp(block.norm2(hidden))
        merged = reshape(self.merger.ln_q(hidden), 0, -1, self.merger.hidden_size)
        for layer in self.merger.mlp:
            merged = layer(merged)
        return merged

    def _attention(self, attention: Any, hidden_NLH: Tensor) -> Tensor:
        split = reshape(attention.qkv(hidden_NLH), 0, 0, -1, self.size).transpose(1, 2)
        query, key, value = torch.split(split, self.heads, 1)
        query, key = (rotate(one, self.cos, self.sin, self.size) for one in (query, key))
        weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
        return attention.proj(reshape((weights @ value).transpose(1, 2), 0, 0, -1))  # type: ignore[no-any-return]


class Hearing(nn.Module):
    """Log-mel features [D, M, W] to audio features [D, C * Y, H] for sounds of one length: C chunks of Y tokens."""

    def __init__(self, model: Any, sound: Sound) -> None:
        super().__init__()
        tower = model.model.audio_tower
        self.layers, self.convolutions = tower.layers, nn.ModuleList([tower.conv2d1, tower.conv2d2, tower.conv2d3])
        self.joined = nn.ModuleList(
            [joined(*(getattr(one.self_attn, f"{name}_proj") for name in "qkv")) for one in tower.layers]
        )
        self.tower, self.sound = tower, sound
        self.heads = tower.config.encoder_attention_heads
        self.size = tower.config.d_model // self.heads
        tokens = -(-sound.chunk // 8)
        self.place = nn.Buffer(tower.positional_embedding.positional_embedding[:tokens].detach().clone())

    def forward(self, mels_DMW: Tensor) -> Tensor:
        """Audio features [D, C * Y, H]."""
        chunks = reshape(mels_DMW, 0, 0, -1, self.sound.chunk).transpose(1, 2)
        maps = reshape(chunks, -1, 1, self.sound.mels, self.sound.chunk)
        for layer in self.convolutions:
            maps = nn.functional.gelu(layer(maps))
        tokens = self.tower.conv_out(reshape(maps.permute(0, 3, 1, 2), 0, 0, -1)) + self.place
        hidden = reshape(tokens, -1, self.sound.tokens, self.heads * self.size)
        for number, layer in enumerate(self.layers):
            hidden = hidden + self._attention(number, layer.self_attn_layer_norm(hidden))
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        out: Tensor = self.tower.proj2(self.tower.act(self.tower.proj1(self.tower.ln_post(hidden))))
        return out

    def _attention(self, number: int, hidden: Tensor) -> Tensor:
        own: Any = self.layers[number].self_attn
        split = reshape(self.joined[number](hidden), 0, 0, -1, self.size).transpose(1, 2)
        query, key, value = torch.split(split, self.heads, 1)
        weights = (query @ key.transpose(2, 3) * own.scaling).softmax(-1)
        mixed: Tensor = own.out_proj(reshape((weights @ value).transpose(1, 2), 0, 0, -1))
        return mixed


class Decoder(CachedLayers):
    """Logits [B, V] of the last position and the grown key/value cache, layer by layer k, v, each [B, K, P + S, D]."""

    def __init__(self, model: Any) -> None:
        config = model.config.text_config
        heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        super().__init__(model.model.language_model, model.lm_head, *heads)
        rope = self.text.rotary_emb
        # Which of time, height and width turns each component: asked of the model by giving every axis its number.
        axes_3 = torch.arange(3.0).view(3, 1, 1, 1).repeat(1, 1, 1, self.size // 2)
        self.axis = nn.Buffer(rope.recomposition_frequencies(axes_3).flatten().long())
        self.turn = nn.Buffer(torch.cat([rope.inv_freq, rope.inv_freq]))
        self.sign = nn.Buffer(half_turned(self.size) * rope.attention_scaling)
        self.scaling = float(rope.attention_scaling)

    def forward(self, ids_BS: Tensor, positions_3BS: Tensor, index_BS: Tensor, visual_TH: Tensor,
                *past: Tensor) -> tuple[Tensor, ...]:  # fmt: skip
        """`index_BS` is 0 for text and k for row k of `visual_TH` (whose row 0 is zero); `past` is k, v per layer."""
        hidden = torch.where((index_BS > 0)[..., None], visual_TH[index_BS], self.text.embed_tokens(ids_BS))
        angles_BSD = positions_3BS[self.axis].permute(1, 2, 0).float() * self.turn
        rope = (angles_BSD.cos() * self.scaling)[:, None], (angles_BSD.sin() * self.sign)[:, None]
        hidden, present = self.through(hidden, rope, past)
        return (self.head(self.text.norm(hidden[:, -1])), *present)
