"""The text classifier as transformers reads it: an encoder and a linear head over the mean of its token states.

This file lies beside the weights (`auto_map` in config.json) and needs nothing but torch and transformers:
`AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)`.

Shape legend: B rows, S tokens, H hidden size, C classes.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, BertConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class TextClassifier(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The encoder under its family's own name, and `head`."""

    config_class = BertConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        auto: Any = AutoModel
        kind = auto._model_mapping[type(config)]
        # The mean is taken of all tokens: a pooling layer over the first one was never trained.
        pooler = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
        encoder = kind(config, **pooler)
        self.inner = encoder.base_model_prefix
        self.add_module(self.inner, encoder)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of token ids int64 [B, S]; `attention_mask` 1 at tokens, 0 at padding. The encoder was trained
        without token types: what a tokenizer says of them is not read."""
        mask_BS = input_ids.new_ones(input_ids.shape) if attention_mask is None else attention_mask
        states_BSH = self.get_submodule(self.inner)(input_ids=input_ids, attention_mask=mask_BS).last_hidden_state
        mask_BS1 = mask_BS[..., None]
        logits_BC = self.head((states_BSH * mask_BS1).sum(1) / mask_BS1.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)
