# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Damage to the structure: nodes, names, edges, subgraphs, opsets, inputs and outputs."""

from __future__ import annotations

import random

import onnx
from onnx import helper

from tests.fuzz.edit import Edit, any_graph, any_name, any_node, graphs, nasty

OPS = ("Relu", "Add", "Nothing", "", "If", "Loop", "Conv", "Div", "Concat", "Split", "LSTM",
       "Reshape", "MatMul", "SequenceAt", "Constant", "NonMaxSuppression", "TopK", "Softmax",
       "Transpose", "Gather", "Scan", "Dropout", "Where", "DepthToSpace", "Gemm", "GatherND",
       "ScatterND", "RoiAlign", "Range", "OneHot", "Squeeze", "Shape", "Size", "Mod", "Pow",
       "StringNormalizer", "Optional", "ReduceSum", "Pad", "Slice", "Cast", "Identity")  # fmt: skip


def drop_node(rng: random.Random, model: onnx.ModelProto) -> str:
    """Take a node out."""
    nodes = any_graph(rng, model).node
    return nodes.pop(rng.randrange(len(nodes))).name


def repeat_node(rng: random.Random, model: onnx.ModelProto) -> str:
    """Say a node twice."""
    nodes = any_graph(rng, model).node
    copy = onnx.NodeProto.FromString(rng.choice(nodes).SerializeToString())
    if rng.random() < 0.5:
        for i in range(len(copy.output)):
            copy.output[i] += "_again"
    nodes.insert(rng.randrange(len(nodes)), copy)
    return copy.name


def shuffle(rng: random.Random, model: onnx.ModelProto) -> str:
    """Bring the nodes out of order."""
    graph = any_graph(rng, model)
    nodes = list(graph.node)
    rng.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    return graph.name


def cycle(rng: random.Random, model: onnx.ModelProto) -> str:
    """Let an early node read a late value."""
    nodes = any_graph(rng, model).node
    node, later = rng.choice(nodes), rng.choice(nodes)
    node.input[rng.randrange(len(node.input))] = rng.choice(later.output)
    return node.name


def rewire(rng: random.Random, model: onnx.ModelProto) -> str:
    """Let a node read another value."""
    node = any_node(rng, model)
    node.input[rng.randrange(len(node.input))] = any_name(rng, model)
    return node.op_type


def swap_inputs(rng: random.Random, model: onnx.ModelProto) -> str:
    """Exchange two operands."""
    node = any_node(rng, model)
    i, j = (rng.randrange(len(node.input)) for _ in range(2))
    node.input[i], node.input[j] = node.input[j], node.input[i]
    return node.op_type


def change_arity(rng: random.Random, model: onnx.ModelProto) -> str:
    """Give or take operands and results."""
    node = any_node(rng, model)
    which = rng.choice([node.input, node.output])
    match rng.randrange(4):
        case 0:
            del which[:]
        case 1:
            which.pop()
        case 2:
            which.extend([any_name(rng, model)] * rng.choice([1, 3, 50]))
        case _:
            which[rng.randrange(len(which))] = ""
    return node.op_type


def rename(rng: random.Random, model: onnx.ModelProto) -> str:
    """Give a value a name that is empty, taken, strange or very long."""
    node = any_node(rng, model)
    odd = ["", any_name(rng, model), "a b\n\"%\0'", "ü" * 20, "x" * 10000, "../../x", "%0", "?"]
    name = rng.choice(odd)
    which = rng.choice([node.output, node.input])
    which[rng.randrange(len(which))] = name
    if rng.random() < 0.3:
        node.name = rng.choice(odd)
    return f"{node.op_type} {name[:20]!r}"


def change_op(rng: random.Random, model: onnx.ModelProto) -> str:
    """Make it another op, known or not."""
    node = any_node(rng, model)
    old, node.op_type = node.op_type, rng.choice(OPS)
    if rng.random() < 0.5:
        del node.attribute[:]
    return f"{old} {node.op_type}"


def change_domain(rng: random.Random, model: onnx.ModelProto) -> str:
    """Move it to another domain, with or without an opset of it."""
    node = any_node(rng, model)
    node.domain = rng.choice(["ai.onnx", "ai.onnx.ml", "com.microsoft", "custom", "ai.onnx.training",
                              "com.ms.internal.nhwc", "\0", "ai.onnx.preview"])  # fmt: skip
    if rng.random() < 0.7:
        model.opset_import.add(domain=node.domain, version=rng.choice([1, 1, 2, 5, nasty(rng)]))
    return f"{node.op_type} {node.domain!r}"


def change_opset(rng: random.Random, model: onnx.ModelProto) -> str:
    """An opset that is missing, zero, huge, old, or said twice."""
    versions = (0, 1, 6, 7, 8, 10, 11, 12, 13, 16, 18, 21, 23, 25, 26, 27, 28, nasty(rng))
    choice = rng.choice(versions)
    match rng.randrange(4):
        case 0 if model.opset_import:
            del model.opset_import[:]
        case 1:
            model.opset_import.add(domain=rng.choice(["", "ai.onnx", "x"]), version=choice)
        case _:
            model.opset_import[0].version = choice
    if rng.random() < 0.2:
        model.ir_version = rng.choice([0, 1, 2, 3, 4, 13, 14, 99, nasty(rng)])
    return str(choice)


def change_outputs(rng: random.Random, model: onnx.ModelProto) -> str:
    """Outputs that are missing, doubled, unknown, inputs, or of another type."""
    graph = any_graph(rng, model)
    match rng.randrange(6):
        case 0:
            del graph.output[:]
        case 1:
            graph.output.add().CopyFrom(rng.choice(graph.output))
        case 2:
            rng.choice(graph.output).name = rng.choice(["", "nobody"])
        case 3:
            rng.choice(graph.output).name = any_name(rng, model)
        case 4:
            graph.output.append(onnx.ValueInfoProto(name=any_name(rng, model)))
        case _:
            rng.choice(graph.output).type.CopyFrom(_type(rng))
    return graph.name


def change_inputs(rng: random.Random, model: onnx.ModelProto) -> str:
    """Inputs that are missing, doubled, untyped or of another type or size."""
    graph = any_graph(rng, model)
    match rng.randrange(5):
        case 0:
            graph.input.pop(rng.randrange(len(graph.input)))
        case 1:
            graph.input.add().CopyFrom(rng.choice(graph.input))
        case 2:
            rng.choice(graph.input).ClearField("type")
        case 3:
            rng.choice(graph.input).type.CopyFrom(_type(rng))
        case _:
            dims = rng.choice(graph.input).type.tensor_type.shape.dim
            rng.choice(dims).dim_value = nasty(rng)
    return graph.name


def change_value_info(rng: random.Random, model: onnx.ModelProto) -> str:
    """A wrong note on the type of a value."""
    name = any_name(rng, model)
    any_graph(rng, model).value_info.append(onnx.ValueInfoProto(name=name, type=_type(rng)))
    return name


def damage_subgraph(rng: random.Random, model: onnx.ModelProto) -> str:
    """Empty, swap, nest or drop subgraphs; put them where none belongs."""
    inner = list(graphs(model.graph))[1:]
    if not inner or rng.random() < 0.2:
        node = any_node(rng, model)
        node.attribute.append(helper.make_attribute("body", model.graph))
        return f"body of {node.op_type}"
    graph = rng.choice(inner)
    match rng.randrange(5):
        case 0:
            graph.Clear()
        case 1:
            graph.CopyFrom(rng.choice(inner))
        case 2:
            del graph.node[:]
        case 3:
            _nest(graph, rng.choice([3, 12, 20]))
        case _:
            graph.initializer.add(name="trip", data_type=7, int64_data=[nasty(rng)])
    return graph.name


def _nest(graph: onnx.GraphProto, depth: int) -> None:
    """Put a graph's body in an If in an If in an If ..."""
    for _ in range(depth):
        copy = onnx.GraphProto.FromString(graph.SerializeToString())
        del graph.node[:]
        wrap = helper.make_node("If", ["cond"], [o.name for o in copy.output])
        wrap.attribute.append(helper.make_attribute("then_branch", copy))
        wrap.attribute.append(helper.make_attribute("else_branch", copy if depth < 4 else 1))
        graph.node.append(wrap)


def damage_function(rng: random.Random, model: onnx.ModelProto) -> str:
    """Functions that call themselves, are said twice, or lack their parts."""
    f = rng.choice(model.functions)
    match rng.randrange(5):
        case 0:
            f.node.append(helper.make_node(f.name, list(f.input), ["again"], domain=f.domain))
        case 1:
            model.functions.add().CopyFrom(f)
        case 2:
            del f.opset_import[:]
        case 3:
            f.output.append("nobody")
        case _:
            del f.input[:]
    return f.name


def _type(rng: random.Random) -> onnx.TypeProto:
    shape = [rng.choice([nasty(rng), 1, 2, 3, "N", "2*N", None]) for _ in range(rng.randrange(5))]
    tensor = helper.make_tensor_type_proto(rng.choice([1, 1, 6, 7, 8, 9, 10, 16, 22, 0, 99]), shape)
    match rng.randrange(8):
        case 0:
            return helper.make_sequence_type_proto(tensor)
        case 1:
            return helper.make_optional_type_proto(tensor)
        case 2:
            return helper.make_map_type_proto(7, tensor)
        case 3:
            return helper.make_sparse_tensor_type_proto(1, shape)
        case _:
            return tensor


EDITS: tuple[Edit, ...] = (
    drop_node, repeat_node, shuffle, cycle, rewire, rewire, swap_inputs, change_arity, rename,
    change_op, change_op, change_domain, change_opset, change_outputs, change_inputs, change_inputs,
    change_value_info, damage_subgraph, damage_subgraph, damage_function,
)  # fmt: skip
