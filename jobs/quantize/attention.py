"""Self-attention of an encoder as one node (`com.microsoft.Attention`): queries, keys and values are one product, and
no transposed copy of them is written. Scheme `fast` turns it into `QAttention`; a seventh of a small student's time.

ONNX Runtime's own fusion wants the number of heads and a score that is divided by a constant, not multiplied, so what
transformers exports passes it by.

Shape legend: H hidden size, D size of a head.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

DOMAIN = "com.microsoft"
HEADS_FIRST, KEYS_ACROSS = [0, 2, 1, 3], [0, 2, 3, 1]  # from [batch, tokens, heads, D]: as queries, and as keys


@dataclass(frozen=True)
class Projection:
    """`states` @ `weight_HH` + `bias_H`, cut into heads of `head_size`."""

    states: str
    weight_HH: np.ndarray
    bias_H: np.ndarray
    head_size: int


def fuse(model: Any) -> int:
    """Replace every self-attention without a mask, in place; another form stays. Returns how many (count)."""
    from onnx import helper, numpy_helper
    from onnxruntime.transformers.onnx_model import OnnxModel

    known = _Graph(model)
    found = [own for node in model.graph.node if node.op_type == "Softmax" and (own := known.attention(node))]
    for last, parts, scale in found:
        out, first = last.output[0], parts[0]
        weight, bias = f"{out}_qkv", f"{out}_qkv_bias"
        model.graph.initializer.append(numpy_helper.from_array(np.hstack([one.weight_HH for one in parts]), weight))
        model.graph.initializer.append(numpy_helper.from_array(np.hstack([one.bias_H for one in parts]), bias))
        last.output[0] = f"{out}_apart"  # read by nobody: pruned with all that leads to it
        model.graph.node.append(
            helper.make_node("Attention", [first.states, weight, bias], [out], f"{out}_attention", domain=DOMAIN,
                             num_heads=len(first.bias_H) // first.head_size, scale=scale)
        )  # fmt: skip
    if found:
        if DOMAIN not in {one.domain for one in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        whole = OnnxModel(model)
        whole.prune_graph()
        whole.topological_sort()
    return len(found)


class _Graph:
    """Who makes and who reads each tensor of a folded graph, and its constants."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.reads = Counter(name for node in model.graph.node for name in node.input)
        self.readers = {name: node for node in model.graph.node for name in node.input}

    def attention(self, softmax: Any) -> tuple[Any, list[Projection], float] | None:
        """The node whose output is the heads side by side, the three projections and the factor of the scores; None
        where this is something else."""
        scaled, product = self._maker(softmax.input[0], "Mul"), self._reader(softmax.output[0], "MatMul")
        if scaled is None or product is None or scaled.input[1] not in self.constants:
            return None
        scores, back = self._maker(scaled.input[0], "MatMul"), self._reader(product.output[0], "Transpose")
        last = None if back is None or _turn(back) != HEADS_FIRST else self._reader(back.output[0], "Reshape")
        if scores is None or last is None:
            return None
        turns = (HEADS_FIRST, KEYS_ACROSS, HEADS_FIRST)
        parts = [self._projection(*one) for one in zip((*scores.input, product.input[1]), turns, strict=True)]
        if any(one is None for one in parts) or len({one.states for one in parts if one is not None}) != 1:
            return None
        return last, [one for one in parts if one is not None], float(self.constants[scaled.input[1]])

    def _projection(self, heads: str, turn: list[int]) -> Projection | None:
        """What these heads, turned so, were projected from."""
        turned = self._maker(heads, "Transpose")
        cut = None if turned is None or _turn(turned) != turn else self._maker(turned.input[0], "Reshape")
        added = None if cut is None else self._maker(cut.input[0], "Add")
        shape = None if cut is None else self._maker(cut.input[1], "Concat")
        if added is None or shape is None:
            return None
        bias = next((self.constants[name] for name in added.input if name in self.constants), None)
        product = next((own for name in added.input if (own := self._maker(name, "MatMul")) is not None), None)
        if bias is None or product is None:
            return None
        size, weight = self.constants.get(shape.input[-1]), self.constants.get(product.input[1])
        if size is None or weight is None or weight.shape != (len(bias), len(bias)):
            return None
        return Projection(product.input[0], weight, bias, int(size.item()))

    def _maker(self, name: str, kind: str) -> Any | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def _reader(self, name: str, kind: str) -> Any | None:
        node = self.readers.get(name)
        return node if self.reads[name] == 1 and node is not None and node.op_type == kind else None


def _turn(transpose: Any) -> list[int]:
    return [axis for attribute in transpose.attribute for axis in attribute.ints]
