"""ONNX graphs, and loops in them, as onnxruntime's quantization can read them."""

from collections.abc import Iterator
from typing import Any


def settle(graph: Any) -> None:
    """Move the weights of loops into their bodies, and write products as `MatMul`.

    The converter hands a loop's weights from turn to turn as if they were a state, and
    writes products as `Gemm` with a third term that does not count. Constants of the
    body are read faster, and only a `MatMul` by such a constant is quantized inside of
    a loop; the third term, a scalar, cannot be quantized anywhere.

    Args:
      graph: of an ONNX model; changed in place.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    read = set(_read(graph))
    for node in graph.node:
        if node.op_type == "Gemm" and _is_product(node):
            node.op_type = "MatMul"
            del node.input[2:], node.attribute[:]
        elif node.op_type == "Loop":
            [body] = [x.g for x in node.attribute if x.name == "body"]
            _own_constants(node, body, constants, read)
            settle(body)
    read = set(_read(graph))
    for k in reversed(range(len(graph.initializer))):
        if graph.initializer[k].name not in read:
            del graph.initializer[k]


def _read(graph: Any) -> Iterator[str]:
    """Name what is read in a graph and in loops inside of it, and what it returns."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g)


def _own_constants(
    loop: Any, body: Any, constants: dict[str, Any], read: set[str]
) -> None:
    handed_on = {
        node.output[0]: node for node in body.node if node.op_type == "Identity"
    }
    # the first two inputs are the number of turns and whether to go on; the body's
    # first output says whether to go on
    for k in reversed(range(len(loop.input) - 2)):
        outer, inner = loop.input[2 + k], body.input[2 + k].name
        last = handed_on.get(body.output[1 + k].name)
        same = last is not None and last.input[0] == inner
        if outer in constants and same and loop.output[k] not in read:
            own = body.initializer.add()
            own.CopyFrom(constants[outer])
            own.name = inner
            body.node.remove(last)
            del loop.input[2 + k], loop.output[k]
            del body.input[2 + k], body.output[1 + k]


def _is_product(gemm: Any) -> bool:
    given = {attribute.name: attribute for attribute in gemm.attribute}
    turned = any(given[n].i for n in ("transA", "transB") if n in given)
    factors = [given[n].f if n in given else 1.0 for n in ("alpha", "beta")]
    return not turned and factors == [1.0, 0.0]
