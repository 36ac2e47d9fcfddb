import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import export
from kdjax.export import _onnx
from kdjax.export._loops import settle
from tests.export.conftest import LINEAR, ROWS, build, counted, graph_of, off, plain


def run(model, inputs):
    return _onnx._session(model.SerializeToString())(inputs)


def loops(graph):
    return [node for node in graph.node if node.op_type == "Loop"]


@pytest.fixture(scope="module")
def converted(packages, tmp_path_factory):
    """The model of the GRU as the converter writes it."""
    import onnx

    case, path = build("GRU"), tmp_path_factory.mktemp("gru") / "gru.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_onnx, "settle", lambda graph: None)
        export.onnx(path, case.network, case.variables, case.inputs)
    return onnx.load(path)


def test_loops_own_their_weights_and_compute_the_same(converted):
    case, settled = build("GRU"), type(converted)()
    settled.CopyFrom(converted)
    settle(settled.graph)
    assert off(run(settled, case.inputs), run(converted, case.inputs)) < 1e-6
    assert [len(loop.input) for loop in loops(converted.graph)] == [8, 8]
    # turns, whether to go on, the state and the sequence
    assert [len(loop.input) for loop in loops(settled.graph)] == [4, 4]
    assert counted(settled.graph, {"MatMul"}) == (4, 4)
    # what the loops own now the graph around them has no more
    assert len(settled.SerializeToString()) < 1.01 * len(converted.SerializeToString())

    again = type(converted)()
    again.CopyFrom(settled)
    settle(again.graph)
    assert again == settled


def loop(*, beta=0.0, turned=0, reads_weight=False):
    """Return a model: three times `state ← state · weight · rate, rate ← rate²`."""
    from onnx import TensorProto, helper, numpy_helper

    def info(name, shape=(), kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    how = {"beta": beta, "transB": turned}
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Gemm", ["state", "weight", "outer"], ["product"], **how),
            helper.make_node("Mul", ["product", "rate"], ["next_state"]),
            helper.make_node("Identity", ["weight"], ["next_weight"]),
            helper.make_node("Mul", ["rate", "rate"], ["next_rate"]),
        ],
        "body",
        [
            info("turn", kind=TensorProto.INT64),
            info("go", kind=TensorProto.BOOL),
            info("state", ("n", 3)),
            info("weight", (3, 3)),
            info("rate", (1,)),
        ],
        [
            info("go_on", kind=TensorProto.BOOL),
            info("next_state", ("n", 3)),
            info("next_weight", (3, 3)),
            info("next_rate", (1,)),
        ],
    )
    given = ["turns", "true", "inputs", "start_weight", "start_rate"]
    last = ["last_state", "last_weight", "last_rate"]
    end = ("MatMul", last[:2]) if reads_weight else ("Identity", last[:1])
    constants = {
        "turns": np.array(3),
        "true": np.array(True),
        "start_weight": np.arange(9, dtype=np.float32).reshape(3, 3) / 9,
        "start_rate": np.array([0.9], np.float32),
        "outer": np.ones(3, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Loop", given, last, body=body),
            helper.make_node(*end, ["logits"]),
        ],
        "graph",
        [info("inputs", ("n", 3))],
        [info("logits", ("n", 3))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


@pytest.mark.parametrize(
    ("how", "stays"),
    [
        ({}, []),
        ({"beta": 1.0}, ["Gemm", "outer"]),
        ({"turned": 1}, ["Gemm", "outer"]),
        ({"reads_weight": True}, ["start_weight"]),
    ],
    ids=["product", "sum", "transposed", "read after the loop"],
)
def test_only_what_never_changes_and_is_not_read_is_moved(how, stays, packages):
    model = loop(**how)
    before = run(model, ROWS)
    settle(model.graph)
    assert off(run(model, ROWS), before) < 1e-6
    [node] = loops(model.graph)
    # the rate starts as a constant, but is a state
    moved = "start_weight" not in stays
    assert list(node.input) == [
        *("turns", "true", "inputs", *([] if moved else ["start_weight"])),
        "start_rate",
    ]
    left = {tensor.name for tensor in model.graph.initializer}
    assert left == {"turns", "true", "start_rate", *stays} - {"Gemm"}
    assert counted(model.graph, {"Gemm"}) == ((1, 1) if "Gemm" in stays else (0, 0))


def test_products_in_loops_of_loops_are_computed_with_integers(packages, tmp_path):
    def twice(params, inputs):
        def step(state, x):
            return jnp.tanh(state @ params + x), None

        def steps(state, x):
            return jax.lax.scan(step, state, jnp.stack([x, -x]))[0], None

        return jax.lax.scan(steps, inputs, jnp.stack([inputs, 2 * inputs]))[0]

    path, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export.onnx(path, *plain(twice), ROWS)
    export.onnx_int8(int8, path, ROWS)
    assert counted(graph_of(int8), {"MatMulInteger"}) == (1, 1)
    assert off(export.load_onnx(int8)(ROWS), export.load_onnx(path)(ROWS)) < 0.05


def test_a_product_without_a_bias_is_computed_with_integers(packages, tmp_path):
    path, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export.onnx(path, *LINEAR, ROWS)
    export.onnx_int8(int8, path, ROWS)
    assert counted(graph_of(path), {"MatMul"}) == (1, 0)
    assert off(export.load_onnx(int8)(ROWS), export.load_onnx(path)(ROWS)) < 0.05
