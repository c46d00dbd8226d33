"""The parts of a decoder between its matrix products, each with one fused forward and one fused backward pass.

Only training in bf16 uses them: evaluations, bundles and whatever is computed in fp32 go through transformers' own code. What a backward pass can compute again
is not kept, so less memory is held than by torch's own operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.kernels import encoder_block, fused_block
from luthier.models.kernels.compiled import Kernels
from luthier.models.kernels.compiled_attention import CompiledAttention
from luthier.models.kernels.decoder_kernels import DecoderKernels
from luthier.models.kernels.fused_block import window_of
from luthier.models.kernels.fused_layer import ADAPTER, FusedLayer, JointLayers
from luthier.models.kernels.replaced_forward import replace_forward
from luthier.models.kernels.tile_kernels import TileKernels

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes of transformers that norm as `kernels.rms_norm` does."""
FEEDS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Classes whose forward pass is down(act(gate(x)) × up(x))."""
ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention")
"""Classes that rotate queries and keys as they come from their products."""


class _RmsNorm(torch.autograd.Function):
    """Root mean square norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: Tensor, kernels: Kernels) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        output, factor = kernels.rms_norm(rows, weight, eps)
        ctx.save_for_backward(rows, weight, factor)
        ctx.kernels = kernels
        return output.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, weight, factor = ctx.saved_tensors
        d_said = gradients[0].reshape(rows.shape)
        d_x = ctx.kernels.rms_norm_backward(d_said, rows, weight, factor).view(gradients[0].shape)
        d_weight = ctx.kernels.rms_norm_weight_backward(d_said, rows, factor).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, None, None


class _Swiglu(torch.autograd.Function):
    """SiLU of the gate times the rest."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        return kernels.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        _, d_gate, d_up = ctx.kernels.swiglu_backward(*ctx.saved_tensors, gradients[0])
        return d_gate, d_up, None


class _FeedForward(torch.autograd.Function):
    """A whole feed-forward layer; its activations are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor, kernels: Kernels) -> Tensor:
        bent, rest = x @ gate.t(), x @ up.t()
        ctx.save_for_backward(x, bent, rest, gate, up, down)
        ctx.kernels = kernels
        return kernels.swiglu(bent, rest) @ down.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, bent, rest, gate, up, down = ctx.saved_tensors
        d_said = gradients[0]
        inner, d_bent, d_rest = ctx.kernels.swiglu_backward(bent, rest, d_said @ down)
        needs, pairs = ctx.needs_input_grad, ((d_bent, x), (d_rest, x), (d_said, inner))
        d_weights = [ctx.kernels.weight_gradient(*pair) if needed else None for pair, needed in zip(pairs, needs[1:4], strict=True)]
        d_x = torch.addmm(d_bent @ gate, d_rest, up) if needs[0] else None
        return d_x, *d_weights, None


class _JointLinear(torch.autograd.Function):
    """Several layers without bias that read the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, joint: JointLayers, kernels: Kernels, *weights: Tensor) -> Any:
        ctx.save_for_backward(x)
        ctx.joint, ctx.kernels = joint, kernels
        said, _ = joint.forward(x)
        return said.split(joint.widths, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        d_said, joint, nothing = torch.cat(gradients, 1), ctx.joint, [None] * len(ctx.joint.layers)
        d_x, _ = joint.backward(d_said)
        needs = [(needed, False, False, False) for needed in ctx.needs_input_grad[3:]]
        return d_x, None, None, *joint.gradients(needs, d_said, x, nothing, nothing, ctx.kernels)[::4]


class _LowRank(torch.autograd.Function):
    """A layer and its low-rank adapter, whose products are added where the layer's own stand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FusedLayer, kernels: Kernels, *adapter: Tensor) -> Tensor:
        said, thin = layer.forward(x)
        ctx.save_for_backward(x, thin)
        ctx.layer, ctx.kernels = layer, kernels
        return said

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, thin = ctx.saved_tensors
        d_x, d_thin = ctx.layer.backward(gradients[0])
        needs = (False, False, *ctx.needs_input_grad[3:])
        return d_x, None, None, *ctx.layer.gradients(needs, gradients[0], x, thin, d_thin, ctx.kernels)[2:]


class _Rotary(torch.autograd.Function):
    """Rotary position embedding of queries or keys."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, factor: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(cos, sin, factor)
        ctx.kernels = kernels
        return kernels.rotary(x, cos, sin, factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin, factor = ctx.saved_tensors
        return ctx.kernels.rotary(gradients[0], cos, -sin, factor), None, None, None, None


def fuse(network: Any, kernels: Kernels) -> int:
    """Let the parts of a network that are known here compute in compiled passes while it trains in bf16.

    Args:
        network: of transformers; changed in place, its parameters stay the same objects.
        kernels: as loaded.

    Returns:
        how many modules were changed.
    """
    changed, dtypes = 0, (kernels.dtype,)
    for module in network.modules():
        name = type(module).__name__
        if name in NORMS:
            replace_forward(module, dtypes, _norm, kernels, torch.tensor(module.variance_epsilon))
        elif name in FEEDS and module.config.hidden_act == "silu":
            replace_forward(module, dtypes, _feed, kernels)
        elif name in ATTENTIONS and kernels.fits(module.head_dim):
            replace_forward(module, dtypes, _attend, kernels, torch.tensor(float(module.scaling)), torch.tensor(1.0))
        elif name in fused_block.BLOCKS and isinstance(kernels, DecoderKernels) and (layers := fused_block.open_block(module)) is not None:
            norms = (module.input_layernorm, module.post_attention_layernorm)
            eps = tuple(torch.tensor(norm.variance_epsilon) for norm in norms)
            replace_forward(module, dtypes, fused_block.forward_block, kernels, layers, eps)
        elif (
            name in encoder_block.BLOCKS
            and isinstance(kernels, TileKernels)
            and (layers := encoder_block.open_encoder_block(module)) is not None
        ):
            replace_forward(module, dtypes, encoder_block.forward_encoder_block, kernels, layers)
        elif name == ADAPTER:
            replace_forward(module, dtypes, _adapter_forward, kernels)
        else:
            continue
        changed += 1
    return changed


def _norm(self: Any, own: Any, kernels: Kernels, eps: Tensor, x: Tensor) -> Tensor:
    return _RmsNorm.apply(x, self.weight, eps, kernels)  # pyright: ignore[reportReturnType]


def _feed(self: Any, own: Any, kernels: Kernels, x: Tensor) -> Tensor:
    layers = (self.gate_proj, self.up_proj, self.down_proj)
    rows = x.reshape(-1, x.shape[-1])
    if _are_plain(*layers):
        return _FeedForward.apply(rows, *(layer.weight for layer in layers), kernels).view(x.shape)  # pyright: ignore
    return self.down_proj(_Swiglu.apply(self.gate_proj(rows), self.up_proj(rows), kernels)).view(x.shape)


def _adapter_forward(self: Any, own: Any, kernels: Kernels, x: Tensor) -> Tensor:
    if self.dropout.p or any(parameter.requires_grad for parameter in self.base.parameters()):
        return own(x)
    rows = x.reshape(-1, x.shape[-1])
    layer = FusedLayer(self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scale)
    output: Any = _LowRank.apply(rows, layer, kernels, self.lora_A, self.lora_B)
    return output.view(*x.shape[:-1], -1)


def _attend(
    self: Any, own: Any, kernels: Kernels, scale: Tensor, one: Tensor, hidden_states: Tensor, **keywords: Any
) -> tuple[Tensor, None]:
    packing = keywords.get("packing")
    if packing is None or packing.dropout or not packing.causal:  # the kernels know neither
        return own(hidden_states, **keywords)
    cos, sin = (table[0] for table in keywords["position_embeddings"])
    rows = hidden_states[0]
    layers = (self.q_proj, self.k_proj, self.v_proj)
    if _are_plain(*layers):
        weights = [layer.weight for layer in layers]
        projected: Any = _JointLinear.apply(
            rows, JointLayers([FusedLayer(weight, None, None, None, 1.0) for weight in weights]), kernels, *weights
        )
    else:
        projected = [layer(rows) for layer in layers]
    query, key, value = (each.reshape(len(rows), -1, self.head_dim) for each in projected)
    query, key = _Rotary.apply(query, cos, sin, scale, kernels), _Rotary.apply(key, cos, sin, one, kernels)
    attended: Any = CompiledAttention.apply(query, key, value, packing, window_of(self), kernels)
    return self.o_proj(attended.flatten(1))[None], None


def _are_plain(*layers: nn.Module) -> bool:
    """Whether layers are products and nothing else."""
    return all(type(layer) is nn.Linear and layer.bias is None for layer in layers)
