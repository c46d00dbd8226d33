"""Padded batches, for networks whose attention cannot take packed rows: rows of similar length go through together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.dropout import DropoutKeys
from luthier.models.hidden_states import capture_hidden_states, unwrap_states
from luthier.models.packing import pack


def hidden_states(body: Any, tokens: Tensor, lengths: Tensor, dropout_keys: DropoutKeys) -> Tensor:
    """The last hidden state of every token, # (tokens, width)

    Args:
        body: an encoder of transformers, without its head.
        tokens: of all rows, end to end, # (tokens,)
        lengths: of each row, # (rows,)
        dropout_keys: the keys for dropout, of the stream's tokens.
    """
    (states,) = _in_groups(tokens, lengths, dropout_keys, lambda ids, mask: [body(input_ids=ids, attention_mask=mask).last_hidden_state])
    return states


def hidden_states_at(
    body: Any, blocks: nn.ModuleList, tokens: Tensor, lengths: Tensor, dropout_keys: DropoutKeys, depths: Sequence[int]
) -> list[Tensor]:
    """The hidden state of every token behind some numbers of blocks, for each # (tokens, width)

    Args:
        body: as for `through`.
        blocks: of it.
        tokens: of all rows, end to end, # (tokens,)
        lengths: of each row, # (rows,)
        dropout_keys: the keys for dropout.
        depths: as for `capture_hidden_states`.
    """

    def behind(ids: Tensor, mask: Tensor) -> list[Tensor]:
        return [unwrap_states(state) for state in capture_hidden_states(blocks, depths, lambda: body(input_ids=ids, attention_mask=mask))]

    return _in_groups(tokens, lengths, dropout_keys, behind)


def _in_groups(tokens: Tensor, lengths: Tensor, dropout_keys: DropoutKeys, go: Callable[[Tensor, Tensor], list[Tensor]]) -> list[Tensor]:
    """What `go` makes of token numbers and masks, # (rows, length) → each (rows, length, width), without the padding and in the stream's order."""
    packing = pack(lengths, False, dropout_keys, 0.0, torch.float32)
    parts: list[list[Tensor]] = []
    for group in (each.keys for each in packing.groups):
        ids = tokens.index_select(0, group.source).view(group.rows, group.length)  # padding repeats a row's last token, and is not seen
        mask = torch.zeros_like(ids).view(-1).index_fill_(0, group.position, 1).view_as(ids)
        with dropout_keys.use_layout(group.source, group.rows):
            parts.append([state.flatten(0, 1).index_select(0, group.position) for state in go(ids, mask)])
    return [torch.cat(each).index_select(0, packing.back) for each in zip(*parts, strict=True)]
