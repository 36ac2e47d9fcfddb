import functools
import logging
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import export, models, networks, trees
from kdjax.compress import quantize
from kdjax.export import _onnx
from tests.export.conftest import (
    BATCHES,
    LINEAR,
    ROWS,
    constants,
    counted,
    graph_of,
    moved,
    off,
    plain,
)

EQUAL = 1e-5
# Off by at most 0.018 of the largest logit when this was written.
INT8 = 0.05
# With weights: an `Einsum` of attention is none.
PRODUCTS = {"Conv", "Gemm", "MatMul"}
FUSED_PRODUCTS = {"FusedConv", "FusedGemm", "FusedMatMul"}
INTEGER_PRODUCTS = {
    *("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "ConvInteger"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger16"),
}


# Floating point


@pytest.mark.parametrize("batch", BATCHES)
def test_onnxruntime_says_what_the_network_says_for_any_batch(case, float_onnx, batch):
    logits = export.load_onnx(float_onnx)(case.inputs[:batch])
    assert off(logits, case.logits[:batch]) < EQUAL


def test_inputs_and_logits_have_names_and_a_free_batch_axis(case, float_onnx):
    import onnxruntime

    session = onnxruntime.InferenceSession(float_onnx)
    [given], [found] = session.get_inputs(), session.get_outputs()
    assert (given.name, found.name) == ("inputs", "logits")
    assert given.shape[1:] == list(case.inputs.shape[1:])
    assert found.shape[1:] == [5]
    assert isinstance(given.shape[0], str)
    assert given.shape[0] == found.shape[0]
    kind = {"f": "tensor(float)", "i": "tensor(int32)"}[case.inputs.dtype.kind]
    assert given.type == kind


def test_a_file_holds_the_weights_once_as_floats(case, float_onnx):
    weights = trees.num_bytes(case.variables)
    assert weights < float_onnx.stat().st_size < 1.05 * weights + 40_000
    large = [x for x in constants(graph_of(float_onnx)) if np.prod(x.dims) > 100]
    assert {tensor.data_type for tensor in large} == {1}


def test_weights_of_few_bits_are_written_as_floats(case, packages, tmp_path):
    path, inputs = tmp_path / "small.onnx", case.inputs[:3]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case.variables)
    params = quantize.quantized(
        half["params"],
        functools.partial(quantize.uniform, bits=4),
        where=lambda path, leaf: path == "head/kernel",
    )
    small = {**half, "params": params}
    size = export.onnx(path, case.network, small, inputs)
    assert size == path.stat().st_size > trees.num_bytes(case.variables)
    whole = quantize.dequantized(small)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), whole)
    wanted = case.answer(whole, inputs)
    assert off(export.load_onnx(path)(inputs), wanted) < EQUAL
    assert off(wanted, case.logits[:3]) > 100 * EQUAL


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_inputs_are_taken_as_jax_takes_them(dtype, packages, tmp_path):
    network, variables = plain(
        lambda params, x: params[x[:, 0]] if "int" in x.dtype.name else x @ params
    )
    inputs = np.array([[1, 2], [2, 0]]) if dtype == "int64" else ROWS.astype(dtype)
    path, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export.onnx(path, network, variables, inputs)
    export.onnx_int8(int8, path, inputs)
    wanted = np.asarray(network.apply(variables, jnp.asarray(inputs))[0].logits)
    assert off(export.load_onnx(path)(inputs), wanted) < EQUAL
    assert off(export.load_onnx(int8)(inputs), wanted) < INT8


def test_blocks_without_a_projection_are_converted(packages, tmp_path):
    """Which the smallest ResNet has none of that read one sum twice."""
    network = networks.from_linen(models.ResNet(classes=5, depth=14))
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype(np.float32)
    variables = moved(jax.jit(network.init)(jax.random.key(0), images))
    path = tmp_path / "resnet.onnx"
    export.onnx(path, network, variables, images)
    wanted = np.asarray(jax.jit(network.apply)(variables, images)[0].logits)
    assert off(export.load_onnx(path)(images), wanted) < EQUAL


# Integers


@pytest.mark.parametrize("batch", BATCHES)
def test_integers_say_nearly_the_same(case, int8_onnx, batch):
    logits = export.load_onnx(int8_onnx)(case.inputs[:batch])
    difference = np.abs(logits - case.logits[:batch]).max()
    assert 0 < difference < INT8 * np.abs(case.logits).max()


def test_integers_take_less_than_half(case, float_onnx, int8_onnx):
    assert int8_onnx.stat().st_size < 0.45 * float_onnx.stat().st_size


def test_weights_are_symmetric_with_a_scale_for_each_output(int8_onnx):
    from onnx import numpy_helper

    tensors = {x.name: numpy_helper.to_array(x) for x in constants(graph_of(int8_onnx))}
    suffix = "_quantized"
    weights = [x for x in tensors if x.endswith(suffix) and tensors[x].ndim > 1]
    assert len(weights) >= 3
    for name in weights:
        weight = tensors[name]
        scale, zero_point = (
            tensors[name.removesuffix(suffix) + x] for x in ("_scale", "_zero_point")
        )
        assert weight.dtype == np.int8
        assert not zero_point.any()
        # convolutions are [out, in, height, width]
        assert scale.shape == (weight.shape[0 if weight.ndim == 4 else -1],)


def test_products_are_computed_with_integers(case, float_onnx, int8_onnx, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # else it warns that the file is for this machine
    providers = ["CPUExecutionProvider"]
    onnxruntime.InferenceSession(int8_onnx, options, providers=providers)
    before, after = (graph_of(x) for x in (float_onnx, tmp_path / "optimized.onnx"))
    products, in_loops = counted(before, PRODUCTS)
    assert products >= 3
    assert counted(after, INTEGER_PRODUCTS) == (products, in_loops)
    assert counted(after, PRODUCTS | FUSED_PRODUCTS) == (0, 0)
    if case.name == "GRU":
        assert (products, in_loops) == counted(graph_of(int8_onnx), {"MatMulInteger"})
        assert in_loops == 4


# What is refused


def test_a_file_that_says_something_else_is_not_written(
    packages, tmp_path, monkeypatch
):
    path, session = tmp_path / "linear.onnx", _onnx._session
    monkeypatch.setattr(
        _onnx, "_session", lambda content: lambda x: session(content)(x) + 1
    )
    with pytest.raises(ValueError, match=r"off by \d.*nothing was written"):
        export.onnx(path, *LINEAR, ROWS)
    assert not list(tmp_path.iterdir())
    export.onnx(path, *LINEAR, ROWS, tolerance=1.0)
    written = path.read_bytes()
    for tolerance in (0.01, float("nan")):
        with pytest.raises(ValueError, match="nothing was written"):
            export.onnx(path, *LINEAR, ROWS + 1, tolerance=tolerance)
    assert path.read_bytes() == written


def test_integers_that_say_something_else_are_not_written(packages, tmp_path):
    path, int8 = tmp_path / "linear.onnx", tmp_path / "int8.onnx"
    export.onnx(path, *LINEAR, ROWS)
    with pytest.raises(ValueError, match=r"in int8 .* off by \d.*nothing was written"):
        export.onnx_int8(int8, path, ROWS, tolerance=1e-6)
    assert not int8.exists()


def called_back(params, inputs):
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    return jax.pure_callback(np.sin, shape, inputs @ params)


def in_halves(params, inputs):
    return inputs.astype(jnp.bfloat16) @ params.astype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (called_back, r"jax2onnx cannot convert .*pure_callback"),
        (in_halves, r"the network and its file .* but: .*implementation"),
        (lambda params, x: x.reshape(4, 3) @ params, r"the network .* 4 .* 5, but: "),
    ],
    ids=["callback", "bfloat16", "one batch size"],
)
def test_what_cannot_be_written_is_refused(function, why, packages, tmp_path, capfd):
    with pytest.raises(ValueError, match=f"(?s)export.onnx: {why}"):
        export.onnx(tmp_path / "model.onnx", *plain(function), ROWS)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_no_inputs_are_refused(packages, tmp_path):
    path = tmp_path / "linear.onnx"
    with pytest.raises(ValueError, match=r"not empty, got ndarray of shape \[0, 3\]"):
        export.onnx(path, *LINEAR, ROWS[:0])
    export.onnx(path, *LINEAR, ROWS)
    with pytest.raises(ValueError, match=r"not empty, got ndarray of shape \[0, 3\]"):
        export.load_onnx(path)(ROWS[:0])


@pytest.mark.parametrize("name", ["jax2onnx", "onnx", "onnxruntime"])
def test_a_missing_package_is_named_and_how_to_install_it(name, monkeypatch, tmp_path):
    path = tmp_path / "linear.onnx"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"{name}.quantization", raising=False)
    call = {
        "jax2onnx": lambda: export.onnx(path, *LINEAR, ROWS),
        "onnx": lambda: export.onnx_int8(path, path, ROWS),
        "onnxruntime": lambda: export.load_onnx(path),
    }[name]
    path.write_bytes(b"")
    with pytest.raises(ImportError) as raised:
        call()
    for part in (name, "pip install 'kdjax[onnx]'", "pip install --no-deps jax2onnx"):
        assert part in str(raised.value)


# Silence

QUIET = """
import jax
import numpy as np

from kdjax import export, models, networks

for module, shape in (
    (models.GRU(classes=3, width=4), (2, 5, 3)),
    (models.ResNet(classes=3, depth=8), (2, 8, 8, 1)),
):
    network, inputs = networks.from_linen(module), np.ones(shape, np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), inputs)
    export.onnx("float.onnx", network, variables, inputs)
    export.onnx_int8("int8.onnx", "float.onnx", inputs)
    assert export.load_onnx("int8.onnx")(inputs).shape == (2, 3)
"""


def test_a_process_that_exports_prints_nothing_and_is_not_warned(
    packages, run_fresh, tmp_path
):
    assert run_fresh(QUIET, tmp_path) == ("", "")


@pytest.mark.parametrize("function", [LINEAR, plain(called_back)])
def test_what_is_silenced_speaks_again(function, packages, tmp_path, caplog):
    caplog.set_level(0)
    logging.disable(5)
    filters = list(warnings.filters)
    try:
        path = tmp_path / "model.onnx"
        if function is LINEAR:
            export.onnx(path, *function, ROWS)
            export.onnx_int8(path, path, ROWS)
        else:
            with pytest.raises(ValueError, match="cannot convert"):
                export.onnx(path, *function, ROWS)
        assert logging.root.manager.disable == 5
    finally:
        logging.disable(logging.NOTSET)
    assert warnings.filters == filters
    assert not [x for x in caplog.records if not x.name.startswith("jax.")]
