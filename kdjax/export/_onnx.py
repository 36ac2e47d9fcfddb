"""ONNX: what phones, browsers and servers run."""

import contextlib
import functools
import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Network, Variables
from kdjax.compress import quantize
from kdjax.export._loops import settle
from kdjax.files import replace

_INSTALL = (
    "pip install 'kdjax[onnx]' && pip install --no-deps jax2onnx==0.17.1\n"
    "(on its own, because it asks for an older orbax-checkpoint, which it does not use "
    "here)"
)


def onnx(
    path: str | Path,
    network: Network,
    variables: Variables,
    inputs: Any,
    *,
    tolerance: float = 1e-4,
) -> int:
    """Write a network as an ONNX file for any batch size, and compare what it says.

    Weights are float32 in it, bfloat16 and quantized ones too: `onnx_int8` makes
    integers of them.

    Args:
      path: of the file; replaced as a whole.
      network: answers in evaluation mode; its logits are the one output.
      variables: of the network; may be quantized.
      inputs: an array `[batch, ...]`, the first examples that the file is tried on.
      tolerance: the largest difference of a logit in onnxruntime, in units of the
        largest logit. A network that computes in bfloat16 needs about 0.02.

    Returns:
      The size of the file in bytes.

    Raises:
      ImportError: that says what to install, if a package is missing.
      ValueError: if the network cannot be converted, or says something else in
        onnxruntime.

    Example::

        export.onnx("student.onnx", student, variables, images)
        session = onnxruntime.InferenceSession("student.onnx")
        [logits] = session.run(None, {"inputs": images})
    """
    jax2onnx = _package("jax2onnx")
    _package("onnxruntime")  # or raise before the work
    inputs = _array(inputs)
    whole = jax.tree.map(_single, quantize.dequantized(variables))

    def answer(inputs: Any) -> Any:
        return network.apply(whole, inputs)[0].logits

    spec = jax.ShapeDtypeStruct(("batch", *inputs.shape[1:]), inputs.dtype)
    with _quiet(), _correct_passes():
        try:
            model = jax2onnx.to_onnx(
                answer, [spec], input_names=["inputs"], output_names=["logits"]
            )
        except Exception as error:  # whatever it meets in a network
            raise ValueError(
                f"export.onnx: jax2onnx cannot convert this network: {error}"
            ) from error
    settle(model.graph)
    content = model.SerializeToString()
    says = functools.partial(_answering(network), whole)
    off = _difference("export.onnx", content, says, inputs)
    if not off <= tolerance:
        raise ValueError(
            "export.onnx: in onnxruntime the network says something else: a logit is "
            f"off by {off:.1e} of the largest, allowed are {tolerance:.1e} (what "
            "computes in bfloat16 needs a larger tolerance=); nothing was written"
        )
    return replace(path, content)


@contextlib.contextmanager
def _correct_passes() -> Iterator[None]:
    """Leave out what the converter does wrong.

    Where a sum is read twice, as in a residual network, this pass of jax2onnx 0.17
    takes the transposes from one reader and from the other not. What it does right
    onnxruntime does by itself.
    """
    wrong, name = "remove_redundant_transpose_pairs", "_OPTIMIZER_PASSES"
    passes: Any = importlib.import_module("jax2onnx.converter.ir_optimizations")
    before = getattr(passes, name, ())
    setattr(passes, name, tuple(x for x in before if x.name != wrong))
    try:
        yield
    finally:
        setattr(passes, name, before)


@functools.lru_cache(maxsize=16)  # networks of one kind share a compiled program
def _answering(network: Network) -> Callable[..., Any]:
    return jax.jit(lambda variables, inputs: network.apply(variables, inputs)[0].logits)


def _single(leaf: jax.Array) -> jax.Array:
    real = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(jnp.float32) if real else leaf


def _difference(
    function: str, content: bytes, answer: Callable[[Any], Any], inputs: np.ndarray
) -> float:
    """Return how far off logits are, in units of the largest one.

    Of two batch sizes, because it may be that a network or a file takes one alone.
    """
    batches = [inputs, np.concatenate([inputs, inputs[:1]])]
    try:
        run = _session(content)
        pairs = [(run(batch), np.asarray(answer(batch))) for batch in batches]
        off = [
            np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
            for found, wanted in pairs
        ]
    except Exception as error:  # whatever they cannot do
        raise ValueError(
            f"{function}: the network and its file in onnxruntime must both run with "
            f"{len(inputs)} examples and with {len(inputs) + 1}, but: {error}"
        ) from error
    return float(np.max(off))


def onnx_int8(
    path: str | Path, source: str | Path, inputs: Any, *, tolerance: float = 0.2
) -> int:
    """Write an ONNX file with int8 weights, whose products are computed in int8.

    By onnxruntime's own quantization of convolutions and matrix products: weights
    symmetric, with a scale for each output channel; activations between the smallest
    and largest value that was seen of the examples. Where the network has loops, ranges
    are found while it computes.

    Args:
      path: of the file; replaced as a whole.
      source: a file that `onnx` wrote.
      inputs: an array `[batch, ...]` of examples to find ranges with, a few hundred as
        the network will see them; never those of the test split.
      tolerance: the largest difference of a logit of these examples, in units of the
        largest logit.

    Returns:
      The size of the file in bytes.

    Raises:
      ImportError: that says what to install, if a package is missing.
      ValueError: if the integers say something else of the examples.
    """
    onnx = _package("onnx")
    quantization: Any = _package("onnxruntime.quantization")
    kind = quantization.QuantType
    weights = {"per_channel": True, "weight_type": kind.QInt8}
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        ready, made = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        quantization.quant_pre_process(source, ready, skip_symbolic_shape=True)
        nodes = onnx.load(ready).graph.node
        if any(node.op_type == "Loop" for node in nodes):
            inside = {"EnableSubgraph": True}
            quantization.quantize_dynamic(ready, made, extra_options=inside, **weights)
        else:
            quantization.quantize_static(
                ready,
                made,
                _reader(quantization, inputs),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=kind.QUInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                **weights,
            )
        content = made.read_bytes()
    off = _difference("export.onnx_int8", content, load_onnx(source), _array(inputs))
    if not off <= tolerance:
        raise ValueError(
            "export.onnx_int8: in int8 the network says something else of the "
            f"examples: a logit is off by {off:.1e} of the largest, allowed are "
            f"{tolerance:.1e} (tolerance=); nothing was written"
        )
    return replace(path, content)


def _reader(quantization: Any, inputs: Any) -> Any:
    """Return what hands out the examples once, as onnxruntime wants it."""
    batches = iter([{"inputs": _array(inputs)}])
    one = {"get_next": lambda self: next(batches, None)}
    return type("Reader", (quantization.CalibrationDataReader,), one)()


def load_onnx(path: str | Path, *, threads: int = 1) -> Callable[[Any], np.ndarray]:
    """Return the network of an ONNX file as a function of a batch of inputs.

    Args:
      path: of the file.
      threads: that onnxruntime uses for one call.

    Raises:
      ImportError: that says what to install, if a package is missing.
      ValueError: if onnxruntime cannot read the file.
    """
    content = Path(path).read_bytes()
    onnxruntime = _package("onnxruntime")
    try:
        return _session(content, threads)
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf as error:
        raise ValueError(f"{path} is damaged or no ONNX file: {error}") from error


def _session(content: bytes, threads: int = 1) -> Callable[[Any], np.ndarray]:
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is an error is raised, too
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    return lambda inputs: session.run(None, {"inputs": _array(inputs)})[0]


def _array(inputs: Any) -> np.ndarray:
    """Return a batch with the dtype that JAX computes it in."""
    array = np.asarray(inputs)
    # onnxruntime ends the process where it divides by a batch size of 0
    if not array.ndim or not len(array):
        raise ValueError(
            "export: inputs must be an array [batch, ...] that is not empty, got "
            f"{type(inputs).__name__} of shape {list(array.shape)}"
        )
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _package(name: str) -> Any:
    with _quiet():
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"kdjax.export needs {name} for this: {_INSTALL}"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what these packages say of themselves off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with contextlib.suppress(ImportError):  # its absence is told where it is needed
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
