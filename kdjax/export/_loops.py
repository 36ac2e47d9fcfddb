"""Loops of an ONNX graph, as onnxruntime's quantization can read them."""

from typing import Any


def settle(model: Any) -> bool:
    """Move the weights of loops into their bodies; return whether there are loops.

    The converter hands a loop's weights from turn to turn as if they were a state, and
    writes products as `Gemm` without a third term. Constants of the body are read
    faster, and only a `MatMul` by such a constant is quantized inside of a loop.

    Args:
      model: an ONNX model; changed in place.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    loops = [node for node in model.graph.node if node.op_type == "Loop"]
    for loop in loops:
        [body] = [
            attribute.g for attribute in loop.attribute if attribute.name == "body"
        ]
        _own_constants(loop, body, constants)
        for node in body.node:
            if node.op_type == "Gemm" and _is_product(node):
                node.op_type = "MatMul"
                del node.input[2:], node.attribute[:]
    return bool(loops)


def _own_constants(loop: Any, body: Any, constants: dict[str, Any]) -> None:
    handed_on = {
        node.output[0]: node for node in body.node if node.op_type == "Identity"
    }
    # the first two inputs are the number of turns and whether to go on; the body's
    # first output says whether to go on
    for k in reversed(range(len(loop.input) - 2)):
        outer, inner = loop.input[2 + k], body.input[2 + k].name
        last = handed_on.get(body.output[1 + k].name)
        if outer in constants and last is not None and last.input[0] == inner:
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
