"""Hides tokens of a batch and asks the network for them: what loss `masked_tokens` reads (BERT, arXiv 1810.04805).

Shape legend: B rows, S tokens, M hidden tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SHARE = 0.15  # of the tokens are asked for. Source: section 3.1
BLANKED, CHANGED = 0.8, 0.1  # of those read the mask, of those another token; the rest stay. Source: the same
MASKS = ("[MASK]", "<mask>")


def mask_id(tokenizer: Any) -> int | None:
    """The id of the token that stands for a hidden one; None where the vocabulary has none."""
    found = [tokenizer.token_to_id(name) for name in MASKS]
    return next((one for one in found if one is not None), None)


def special_ids(tokenizer: Any) -> list[int]:
    """Tokens that no text is made of: they are never asked for."""
    return sorted(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)


def masked(network: Any, batch: Mapping[str, Tensor], mask: int, special: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits [M, V] of hidden positions, by the token table itself (tied weights), and what stood there int64 [M].

    Which are hidden is drawn from torch's generator, whose state a checkpoint holds: a resumed run hides the same.
    """
    ids_BS, real_BS = batch["input_ids"], batch["attention_mask"].bool()
    draws_BS, kinds_BS = (torch.rand(ids_BS.shape).to(ids_BS.device) for _ in range(2))
    plain_BS = real_BS & ~torch.isin(ids_BS, torch.tensor(special, device=ids_BS.device))
    hidden_BS = plain_BS & (draws_BS < SHARE)
    others_BS = torch.randint(network.config.vocab_size, ids_BS.shape).to(ids_BS.device)
    read_BS = torch.where(hidden_BS & (kinds_BS < BLANKED), mask, ids_BS)
    read_BS = torch.where(hidden_BS & (kinds_BS > 1 - CHANGED), others_BS, read_BS)
    states_BSH = network.encoder(input_ids=read_BS, attention_mask=batch["attention_mask"]).last_hidden_state
    table_VH = network.encoder.get_input_embeddings().weight
    return states_BSH[hidden_BS] @ table_VH.T, ids_BS[hidden_BS]
