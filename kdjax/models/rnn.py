"""The gated recurrent network."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models._narrow import Narrowable
from kdjax.units import Place, Units

_orthogonal = nn.initializers.orthogonal()
_lecun_normal = nn.initializers.lecun_normal()
_zeros = nn.initializers.zeros


def gate_kernel(key: Array, width: int, features: int, gates: int) -> Array:
    """Return the rows of the state, orthogonal for each gate, above the inputs'."""
    of_inputs, *of_gates = jax.random.split(key, gates + 1)
    square = [_orthogonal(of_gate, (width, width)) for of_gate in of_gates]
    below = _lecun_normal(of_inputs, (features, gates * width))
    return jnp.concatenate([jnp.concatenate(square, axis=1), below])


class GRULayer(nn.Module):
    """One layer of gated recurrent units, from a state of zeros.

    `[r, z] = σ([h, x] W + b)`, `n = tanh([r h, x] V + c)`, `h' = z h + (1 − z) n`.
    With the reset r before the product, as Cho et al. 2014
    (https://arxiv.org/abs/1406.1078) have it, state and input share one product.

    Args:
      width: number of units.
    """

    width: int

    def _weights(self, features: int) -> tuple[Any, ...]:
        width = self.width
        return (
            self.param("gates_kernel", gate_kernel, width, features, 2),
            self.param("gates_bias", _zeros, (2 * width,)),
            self.param("candidate_kernel", gate_kernel, width, features, 1),
            self.param("candidate_bias", _zeros, (width,)),
        )

    @nn.compact
    def __call__(self, inputs: Array) -> tuple[Array, Array]:
        """Map `[time, batch, any]` to `[time, batch, width]` and the last of them."""
        inputs, *weights = promote_dtype(inputs, *self._weights(inputs.shape[2]))
        gates_kernel, gates_bias, candidate_kernel, candidate_bias = weights

        # `jnp.dot` and not `@`: the one is known to what makes int8 of products
        def step(state: Array, x: Array) -> tuple[Array, Array]:
            gates = jnp.dot(jnp.concatenate([state, x], axis=1), gates_kernel)
            reset, keep = jnp.split(nn.sigmoid(gates + gates_bias[None]), 2, axis=1)
            both = jnp.concatenate([reset * state, x], axis=1)
            candidate = jnp.dot(both, candidate_kernel) + candidate_bias[None]
            candidate = jnp.tanh(candidate)
            state = keep * state + (1 - keep) * candidate
            return state, state

        # A plain scan, because `nn.RNN` cannot be converted to ONNX. On a CPU one
        # product of [h, x] in it is faster than `nn.RNN`, and as fast as the inputs'
        # product ahead of it or faster; unrolled steps are no faster and slow the
        # gradient down.
        start = jnp.zeros((inputs.shape[1], self.width), inputs.dtype)
        last, states = jax.lax.scan(step, start, inputs)
        return states, last


class GRU(Narrowable, nn.Module):
    """`depth` layers of gated recurrent units and a linear head on the last state.

    Args:
      classes: number of logits.
      width: number of units in each layer.
      depth: number of layers.
      sizes: how many units a layer has, by the name of its feature, where it is not
        `width`: what is left of a pruned one (`narrowed`).

    Call:
      `[batch, time, features]` floating inputs and `train`, which changes nothing,
      give logits `[batch, classes]` and the features `hidden1`, `hidden2`, ...
      `[batch, time, width]` and `last` `[batch, width]`, the last layer's last state.
      There is no mask: a step of padding counts like any other.

    Raises:
      ValueError: if a size is not positive, or the inputs are not a floating batch of
        sequences.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", https://arxiv.org/abs/1406.1078 (2014).

    >>> import jax
    >>> init = GRU(classes=10, width=32).init_with_output
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), jax.numpy.ones((2, 7, 3)))
    >>> outputs.logits.shape, outputs.features["hidden1"].shape
    ((2, 10), (2, 7, 32))
    """

    classes: int
    width: int
    depth: int = 1
    sizes: Mapping[str, int] = core.FrozenDict()

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        sizes = {"classes": self.classes, "width": self.width, "depth": self.depth}
        checks.positive("GRU", **sizes)
        super().__post_init__()

    def _width(self, layer: int) -> int:
        return self.sizes.get(f"hidden{layer}", self.width)

    def _readers(self, layer: int) -> tuple[Place, ...]:
        """Where a layer's states are read by what comes after it."""
        if layer == self.depth:
            return (Place("params/head/kernel", 0),)
        # Above the rows that read the inputs stand those of the layer's own state.
        below, after = self._width(layer + 1), f"params/layer{layer + 1}"
        kernels = ("gates_kernel", "candidate_kernel")
        return tuple(Place(f"{after}/{kernel}", 0, below) for kernel in kernels)

    def units(self) -> dict[str, Units]:
        """Return the hidden units that can be pruned, by the name of their feature."""
        found = {}
        for layer in range(1, self.depth + 1):
            made = f"params/layer{layer}"
            found[f"hidden{layer}"] = Units(
                self._width(layer),
                silenced=(
                    Place(f"{made}/gates_kernel", 1, repeats=2),
                    Place(f"{made}/gates_bias", 0, repeats=2),
                    Place(f"{made}/candidate_kernel", 1),
                    Place(f"{made}/candidate_bias", 0),
                ),
                indexed=(
                    Place(f"{made}/gates_kernel", 0),
                    Place(f"{made}/candidate_kernel", 0),
                    *self._readers(layer),
                ),
            )
        return found

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits, the states of every layer and the last one."""
        checks.floating("GRU", inputs=inputs)
        if inputs.ndim != 3:
            raise ValueError(
                f"GRU: inputs must be [batch, time, features], got {list(inputs.shape)}"
            )
        x = jnp.swapaxes(inputs, 0, 1)  # what is scanned lies along the first axis
        features = {}
        for layer in range(1, self.depth + 1):
            x, last = GRULayer(self._width(layer), name=f"layer{layer}")(x)
            features[f"hidden{layer}"] = jnp.swapaxes(x, 0, 1)
        features["last"] = last
        return Outputs(nn.Dense(self.classes, name="head")(last), features)
