"""Matrices and embeddings of an ONNX file in 8 bits a weight; what is multiplied with them stays in fp32."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 32
"""Weights of a matrix that share a scale."""
LEAST = 1 << 12
"""Numbers that a table of embeddings has at least to be rounded: small ones cost nothing."""


def quantise(file: Path) -> None:
    """Round the matrices and the tables of embeddings of an ONNX file to 8 bits, in place.

    Args:
        file: in fp32.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    how = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=False, bits=8, op_types_to_quantize=("MatMul",), quant_axes=(("MatMul", 0),)
    )
    read = onnx.load(file)
    precise = {each.name for each in read.graph.initializer if each.data_type != onnx.TensorProto.FLOAT}  # a linear probe's, in fp64
    excluded = [node.name for node in read.graph.node if node.op_type == "MatMul" and precise & set(node.input)]
    quantiser = MatMulNBitsQuantizer(read, algo_config=how, nodes_to_exclude=excluded)
    quantiser.process()
    model: Any = quantiser.model
    round_tables(model.model)
    model.save_model_to_file(str(file), False)


def round_tables(model: Any) -> None:
    """Put 8-bit rows with a scale each in the place of fp32 tables that rows are gathered from.

    Args:
        model: of ONNX; changed in place.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    nodes = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
        if (
            table is None
            or table.data_type != TensorProto.FLOAT
            or len(table.dims) != 2
            or axis != 0
            or np.prod(table.dims) < LEAST
            or uses[table.name] > 1
        ):
            nodes.append(node)
            continue
        values = numpy_helper.to_array(table)
        scale = np.maximum(np.abs(values).max(1, keepdims=True), 1e-30).astype(np.float32) / 127
        rounded = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        graph.initializer.remove(table)
        graph.initializer.extend(
            [numpy_helper.from_array(rounded, f"{table.name}.int8"), numpy_helper.from_array(scale, f"{table.name}.scale")]
        )
        names = [f"{node.output[0]}.{what}" for what in ("int8", "scale", "exact")]
        nodes += [
            helper.make_node("Gather", [f"{table.name}.int8", node.input[1]], [names[0]], axis=0),
            helper.make_node("Gather", [f"{table.name}.scale", node.input[1]], [names[1]], axis=0),
            helper.make_node("Cast", [names[0]], [names[2]], to=TensorProto.FLOAT),
            helper.make_node("Mul", [names[2], names[1]], [node.output[0]]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
