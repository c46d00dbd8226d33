"""Networks with an attention of their own, that packed rows have no way into: rows of similar length are padded and go through together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models.dropout import Chance
from luthier.models.packing import pack


def through(body: Any, tokens: Tensor, lengths: Tensor, chance: Chance) -> Tensor:
    """The last hidden state of every token, # (tokens, width)

    Args:
        body: an encoder of transformers, without its head.
        tokens: of all rows, end to end, # (tokens,)
        lengths: of each row, # (rows,)
        chance: the keys for dropout, of the stream's tokens.
    """
    packing = pack(lengths, False, chance, 0.0, torch.float32)
    said = []
    for group in (each.seen for each in packing.groups):
        ids = tokens.index_select(0, group.source).view(group.rows, group.length)  # padding repeats a row's last token, and is not seen
        seen = torch.zeros_like(ids).view(-1).index_fill_(0, group.place, 1).view_as(ids)
        with chance.laid_out(group.source, group.rows):
            states = body(input_ids=ids, attention_mask=seen).last_hidden_state  # (rows, length, width)
        said.append(states.flatten(0, 1).index_select(0, group.place))
    return torch.cat(said).index_select(0, packing.back)
