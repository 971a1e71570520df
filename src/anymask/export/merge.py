"""Joining traced ONNX graphs: one after the other, or one of two by a flag, with every weight stored once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def choose(flag: str, yes: onnx.GraphProto, no: onnx.GraphProto, outputs: list[str]) -> onnx.GraphProto:
    """A graph that runs `yes` where the input `flag` (1,) is above 0, else `no`.

    Inputs: those of both graphs, which meet by name, then `flag`. outputs: names of the results; both graphs must give
    as many, in that order. Only the chosen graph is run.
    """
    from onnx import TensorProto, helper

    inputs: dict[str, Any] = {}
    for graph in (yes, no):
        inputs |= {i.name: i for i in graph.input}
    weights = _Weights()
    branches = []
    for prefix, graph in (("yes", yes), ("no", no)):
        graph = _renamed(graph, prefix, set(inputs), weights)
        branches.append(helper.make_graph(graph.node, prefix, [], list(graph.output)))
    results = []
    for name, output in zip(outputs, no.output):
        result = type(output)()
        result.CopyFrom(output)
        result.name = name
        results.append(result)
    shape = helper.make_node("Constant", [], ["flag_shape"], value_ints=[0])
    nodes = [
        helper.make_node("Constant", [], ["flag_zero"], value_float=0.0),
        shape,
        helper.make_node("Greater", [flag, "flag_zero"], ["flag_is_set"]),
        helper.make_node("Squeeze", ["flag_is_set", "flag_shape"], ["flag_scalar"]),
        helper.make_node("If", ["flag_scalar"], outputs, then_branch=branches[0], else_branch=branches[1]),
    ]
    flag_input = helper.make_tensor_value_info(flag, TensorProto.FLOAT, [1])
    return helper.make_graph(nodes, "main", [*inputs.values(), flag_input], results, list(weights.kept.values()))


def chain(first: onnx.GraphProto, second: onnx.GraphProto, prefix: str, outputs: list[str]) -> onnx.GraphProto:
    """`first`, then `second`, which takes outputs and inputs of `first` by name; other inputs are added.

    prefix: of the inner names of `second`. outputs: names of the results, of either graph.
    """
    from onnx import helper

    given = {value.name for value in (*first.output, *first.input)}
    keep = given | {value.name for value in (*second.input, *second.output)}
    weights = _Weights()
    head = _renamed(first, "", None, weights)
    tail = _renamed(second, prefix, keep, weights)
    inputs = [*first.input, *(i for i in second.input if i.name not in given)]
    results = {o.name: o for o in (*first.output, *second.output)}
    return helper.make_graph(
        [*head.node, *tail.node], "main", inputs, [results[name] for name in outputs], list(weights.kept.values())
    )


class _Weights:
    """Initialisers by content, so that two graphs share what they have in common."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def add(self, tensor: Any) -> str:
        """Keep a tensor; the name under which it is kept."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(tensor)
        content = hashlib.sha256(f"{tensor.data_type} {values.shape}".encode() + values.tobytes()).hexdigest()
        if content not in self.kept:
            copy = type(tensor)()
            copy.CopyFrom(tensor)
            copy.name = f"w{len(self.kept)}_{tensor.name}"
            self.kept[content] = copy
        return str(self.kept[content].name)


def _renamed(graph: onnx.GraphProto, prefix: str, keep: set[str] | None, weights: _Weights) -> onnx.GraphProto:
    """A copy whose inner names begin with `prefix` and whose weights went to `weights`.

    keep: names that stay as they are; None: all but those of the weights.
    """
    copy = type(graph)()
    copy.CopyFrom(graph)
    names = {tensor.name: weights.add(tensor) for tensor in copy.initializer}
    del copy.initializer[:]
    del copy.value_info[:]

    def name(old: str) -> str:
        if not old or (keep is not None and old in keep):
            return old
        if keep is None:
            return names.get(old, old)
        return names.setdefault(old, f"{prefix}/{old}")

    def rename(nodes: Any) -> None:
        for node in nodes:
            node.input[:] = [name(n) for n in node.input]
            node.output[:] = [name(n) for n in node.output]
            node.name = f"{prefix}/{node.name}" if node.name and prefix else node.name
            del node.metadata_props[:]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    rename(attribute.g.node)
                    for output in attribute.g.output:
                        output.name = name(output.name)

    rename(copy.node)
    for output in copy.output:
        output.name = name(output.name)
    return copy
