"""Activations: what the layers of a Linen network see, with a few bits."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Batch, Network, Outputs, Select, Variables, pick
from kdjax.compress.quantize._bounds import Bounds, check_bounds, min_max
from kdjax.compress.quantize._uniform import find_bounds, rounded

_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose, nn.Einsum)


@dataclasses.dataclass(frozen=True)
class Activations:
    """How the inputs of layers are rounded.

    Attributes:
      ranges: `(low, high)` of a layer's inputs, by the path of its module.
      bits: of an activation, 2 to 8.
      symmetric: whether 0.0 is in the middle of the grid.

    Raises:
      ValueError: for other bits, or ends that are not finite.
    """

    ranges: Mapping[str, tuple[float, float]]
    bits: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        """Check the bits and the ranges."""
        checks.integer("quantize.Activations", 2, 8, bits=self.bits)
        for path, ends in self.ranges.items():
            if not np.isfinite(ends).all():
                raise ValueError(
                    f"quantize.Activations: the range of {path} must be finite, got "
                    f"{ends}: the network or its inputs are not"
                )


def calibrated(
    network: Network,
    variables: Variables,
    batches: Iterable[Batch],
    *,
    bits: int = 8,
    symmetric: bool = False,
    bounds: Bounds = min_max,
    inputs: Select = "image",
) -> Activations:
    """Look at examples and find the range of what every layer sees.

    Layers are `nn.Dense`, `nn.DenseGeneral`, `nn.Conv`, `nn.ConvTranspose` and
    `nn.Einsum`, wherever they are in a Linen module, but not inside of a loop
    (`nn.scan`, `nn.remat`). All that they see is held in memory: a few hundred examples
    are enough. Calibrate what is used in the end, `networks.without_parts`: learned
    parts of losses may have layers of the same paths.

    Args:
      network: made by `networks.from_linen`, or around such a one.
      variables: of the network.
      batches: examples, never those of the test split; no padding.
      bits: of an activation, 2 to 8.
      symmetric: whether 0.0 is in the middle of the grid.
      bounds: `min_max`, `percentile(99.9)` or `mse()`.
      inputs: the field of a batch that the network reads, or a function of it.

    Returns:
      The ranges, for `with_activations` and `integer`.

    Raises:
      ValueError: if there is no batch or no such layer, one inside of a loop, or one
        that sees NaN or inf.

    >>> from kdjax import models, networks
    >>> network = networks.from_linen(models.MLP(classes=2, width=4, depth=1))
    >>> images = jnp.linspace(-1, 3, 6).reshape(2, 3)
    >>> variables = network.init(jax.random.key(0), images)
    >>> calibrated(network, variables, [{"image": images}]).ranges["dense1"]
    (-1.0, 3.0)
    """
    checks.integer("quantize.calibrated", 2, 8, bits=bits)
    check_bounds("quantize.calibrated", bounds)
    seen: dict[str, list[Array]] = {}
    for batch in batches:
        try:
            found = _see(network, variables, pick(batch, inputs))
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "quantize.calibrated: a layer inside of a loop (nn.scan, nn.remat and "
                "the like) cannot be seen; calibrate the network without the loop"
            ) from error
        for path, arrays in found.items():
            seen.setdefault(path, []).extend(array.ravel() for array in arrays)
    if not seen:
        raise ValueError(
            "quantize.calibrated: no layer was seen; it needs at least one batch, and "
            "a network made of Linen layers (nn.Dense, nn.Conv, ...)"
        )
    ranges = {}
    for path, arrays in seen.items():
        low, high = find_bounds(
            jnp.concatenate(arrays), bits=bits, symmetric=symmetric, bounds=bounds
        )
        ranges[path] = float(low), float(high)
    return Activations(ranges, bits, symmetric)


@functools.partial(jax.jit, static_argnums=0)
def _see(network: Network, variables: Variables, inputs: Any) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}

    def look(path: str, values: Array) -> Array:
        found.setdefault(path, []).append(values)
        return values

    with nn.intercept_methods(_before_layers(look)):
        network.apply(variables, inputs)
    return found


def with_activations(network: Network, activations: Activations) -> Network:
    """Return the network whose layers see inputs of a few bits.

    It computes in floating point with the values that integers stand for, so that every
    number of bits works on every device, and it can be trained: gradients pass as if
    nothing had been rounded, but where something was clipped. `integer` computes in
    int8.

    Args:
      network: made by `networks.from_linen`, or around such a one.
      activations: from `calibrated`; layers without a range see their inputs as they
        are.

    Returns:
      A network with the same variables.

    Source: Jacob et al., https://arxiv.org/abs/1712.05877 (2018).

    >>> from kdjax import models, networks
    >>> network = networks.from_linen(models.MLP(classes=2, width=4, depth=0))
    >>> coarse = with_activations(network, Activations({"head": (0.0, 3.0)}, bits=2))
    >>> variables = {"params": {"head": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}}
    >>> coarse.apply(variables, jnp.array([[1.2, 9.0]]))[0].logits
    Array([[1., 3.]], dtype=float32)
    """

    def coarse(path: str, values: Array) -> Array:
        if path not in activations.ranges:
            return values
        low, high = activations.ranges[path]
        return rounded(
            values, low, high, bits=activations.bits, symmetric=activations.symmetric
        )

    @functools.wraps(network.apply)
    def apply(*args: Any, **options: Any) -> tuple[Outputs, Variables]:
        with nn.intercept_methods(_before_layers(coarse)):
            return network.apply(*args, **options)

    return Network(network.init, apply)


def _before_layers(change: Callable[[str, Array], Array]) -> Callable[..., Any]:
    """Return an interceptor that hands every layer `change(path, inputs)`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and isinstance(context.module, _LAYERS):
            path = "/".join(context.module.path)
            if args:
                args = (change(path, args[0]), *args[1:])
            else:
                kwargs = {**kwargs, "inputs": change(path, kwargs["inputs"])}
        return call(*args, **kwargs)

    return intercept
