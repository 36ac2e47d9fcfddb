"""StableHLO: a network and its weights as one program."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import Array, export

from kdjax import compress
from kdjax.base import Network, Variables
from kdjax.compress import quantize
from kdjax.files import replace

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(
    path: str | Path,
    network: Network,
    variables: Variables,
    inputs: Any,
    *,
    platforms: Sequence[str] = PLATFORMS,
) -> int:
    """Write a network with its weights as a StableHLO program for any batch size.

    A process that has JAX and flatbuffers, with which JAX reads such files, runs it
    without this library and without the network's code::

        program = jax.export.deserialize(Path("student.stablehlo").read_bytes())
        logits = program.call(images)

    Weights are in it as `compress.pack` packs them, and unpacked whenever it runs: a
    network of four bits takes four bits. JAX promises to read such files for six months
    and more, see its page on export.

    Args:
      path: of the file; replaced as a whole.
      network: answers in evaluation mode; only its logits are in the program.
      variables: of the network; `quantize.Quantized` leaves and zeros stay small.
      inputs: a batch of inputs; only shapes and dtypes count, and the first axis of
        each array becomes a variable of the program.
      platforms: that it can run on.

    Returns:
      The size of the file in bytes.

    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, x: x @ params)
    >>> path = Path(tempfile.mkdtemp()) / "linear.stablehlo"
    >>> size = stablehlo(path, linear, {"params": 2 * jnp.eye(3)}, jnp.ones((1, 3)))
    >>> load_stablehlo(path)(jnp.ones((2, 3)))
    Array([[2., 2., 2.],
           [2., 2., 2.]], dtype=float32)
    """
    packed = compress.pack(variables)

    @jax.jit
    def answer(inputs: Any) -> Array:
        whole = quantize.dequantized(compress.unpack(packed))
        return network.apply(whole, inputs)[0].logits

    (batch,) = export.symbolic_shape("batch")
    specs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), inputs
    )
    with _nameless():
        program = export.export(answer, platforms=platforms)(specs)
    return replace(path, bytes(program.serialize()))


@contextlib.contextmanager
def _nameless() -> Iterator[None]:
    """Keep the paths of this machine's source files out of programs."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def load_stablehlo(path: str | Path) -> Callable[[Any], Array]:
    """Return the network of a file as a compiled function of a batch of inputs.

    Raises:
      ValueError: if the file is no such program.
    """
    content = Path(path).read_bytes()
    try:
        program = export.deserialize(bytearray(content))
    except Exception as error:  # whatever a damaged file makes of it
        raise ValueError(f"{path} holds no program of jax.export: {error}") from error
    return jax.jit(program.call)
