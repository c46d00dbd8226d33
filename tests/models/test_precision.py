"""What a network computes in, and what of it stays precise."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from luthier.models.precision import in_fp32, round_weights_to
from luthier.models.pretrained import load_generator
from tests.conftest import DECODERS


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_in_bf16_is_what_transformers_loads_in_bf16_to_the_last_buffer(bases, family: str) -> None:
    base = bases(family)
    ours = round_weights_to(load_generator(base, 0.0), torch.bfloat16).network
    theirs = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16, attn_implementation="eager")
    buffers = dict(ours.named_buffers())
    for name, buffer in theirs.named_buffers():
        if "inv_freq" in name:  # of other buffers transformers keeps what their dtype makes of them where they are used
            assert buffers[name].dtype == buffer.dtype == torch.float32, name
            assert torch.equal(buffers[name], buffer), name
    assert any("inv_freq" in name for name in buffers) == (family != "gpt2")  # whose positions are learned
    tokens = torch.arange(5, 65)[None]
    with torch.no_grad():
        theirs_said = theirs(tokens).logits.float()
        ours.set_attn_implementation("eager")
        assert float((ours(tokens).logits.float() - theirs_said).norm()) <= 2e-2 * float(theirs_said.norm())


def test_what_was_rounded_comes_back_to_the_bit_after_a_while_in_fp32(bases) -> None:
    network = round_weights_to(load_generator(bases("llama"), 0.0), torch.bfloat16).network
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    objects = {name: id(parameter) for name, parameter in network.named_parameters()}
    with pytest.raises(ZeroDivisionError), in_fp32(network):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        raise ZeroDivisionError
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert {name: id(parameter) for name, parameter in network.named_parameters()} == objects
