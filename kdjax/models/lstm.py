"""The bidirectional LSTM that classifies token sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models._padding import check_tokens
from kdjax.models.rnn import gate_kernel


def _bias(key: Array, width: int) -> Array:
    """Return zeros, but ones for what keeps the cell, so that it remembers at first."""
    return jnp.zeros((4, width)).at[1].set(1.0).ravel()


class LSTMLayer(nn.Module):
    """One layer of long short-term memory in one direction, from a state of zeros.

    `[i, f, g, o] = [h, x] W + b`, `c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')`.
    A step of padding leaves `h` and `c` as they are, so the backward direction starts
    at each sequence's own end.

    Args:
      width: number of units.
      backward: whether it goes from the last step to the first.
    """

    width: int
    backward: bool = False

    @nn.compact
    def __call__(self, inputs: Array, real: Array) -> tuple[Array, Array]:
        """Map `[time, batch, any]` to `[time, batch, width]` and the last of them.

        `real` `[time, batch]` is False for padding, where the states returned are 0.
        """
        sizes = self.width, inputs.shape[2]
        kernel = self.param("kernel", gate_kernel, *sizes, 4)
        bias = self.param("bias", _bias, self.width)
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)

        def step(before: tuple[Array, Array], now: Any) -> tuple[Any, Array]:
            x, real = now[0], now[1][:, None]
            state, cell = before
            gates = jnp.dot(jnp.concatenate([state, x], axis=1), kernel) + bias[None]
            write, keep, candidate, read = jnp.split(gates, 4, axis=1)
            cell = nn.sigmoid(keep) * cell + nn.sigmoid(write) * jnp.tanh(candidate)
            state = nn.sigmoid(read) * jnp.tanh(cell)
            after = jnp.where(real, state, before[0]), jnp.where(real, cell, before[1])
            return after, jnp.where(real, state, 0)

        # one product of [h, x] in a plain scan, for the reasons that `GRULayer` has
        zeros = jnp.zeros((inputs.shape[1], self.width), inputs.dtype)
        scanned = (inputs, real)
        last, states = jax.lax.scan(
            step, (zeros, zeros), scanned, reverse=self.backward
        )
        return states, last[0]


class LSTM(nn.Module):
    """Embed tokens, then `depth` bidirectional layers, and a linear head.

    Args:
      classes: number of logits.
      vocabulary: number of tokens; 0 is padding.
      width: number of units of each layer in each direction.
      embedding: number of channels of the embedded tokens; None is `width`.
      depth: number of layers.
      dropout: fraction of each layer's inputs and of the head's that is dropped in
        training.

    Call:
      `[batch, tokens]` integer inputs from 0 to `vocabulary - 1`, and `train`, give
      logits `[batch, classes]` and the features `embedded` `[batch, tokens, embedding]`
      (before dropout), `hidden1`, `hidden2`, ... `[batch, tokens, 2 * width]`, the
      states of both directions side by side, 0 at padding, and `last`
      `[batch, 2 * width]`, what the last layer's directions end with, which the head
      reads. Padding is skipped wherever it stands. A token that is not in the
      vocabulary gives NaN.

    Raises:
      ValueError: if a size is not positive, a rate is outside [0, 1], or the inputs are
        not an integer batch of sequences.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory",
    https://doi.org/10.1162/neco.1997.9.8.1735 (1997); in both directions: Graves and
    Schmidhuber, https://doi.org/10.1016/j.neunet.2005.06.042 (2005).

    >>> import jax
    >>> init = LSTM(classes=10, vocabulary=99, width=32).init_with_output
    >>> tokens = jax.numpy.ones((2, 7), int)
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), tokens)
    >>> outputs.logits.shape, outputs.features["hidden1"].shape
    ((2, 10), (2, 7, 64))
    """

    classes: int
    vocabulary: int
    width: int
    embedding: int | None = None
    depth: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes and the rate before anything is built."""
        names = ("classes", "vocabulary", "width", "depth")
        checks.positive("LSTM", **{name: getattr(self, name) for name in names})
        if self.embedding is not None:
            checks.positive("LSTM", embedding=self.embedding)
        checks.fraction("LSTM", dropout=self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits, the states of every layer and the last ones."""
        check_tokens("LSTM", inputs)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        embedding = self.width if self.embedding is None else self.embedding
        x = nn.Embed(self.vocabulary, embedding, name="embed")(inputs)
        features = {"embedded": x}
        x, real = jnp.swapaxes(x, 0, 1), (inputs != 0).T  # what is scanned goes first
        for layer in range(1, self.depth + 1):
            x = drop(x)
            forward = LSTMLayer(self.width, name=f"forward{layer}")
            backward = LSTMLayer(self.width, True, name=f"backward{layer}")
            (ahead, end), (back, start) = forward(x, real), backward(x, real)
            x = jnp.concatenate([ahead, back], axis=-1)
            features[f"hidden{layer}"] = jnp.swapaxes(x, 0, 1)
        features["last"] = jnp.concatenate([end, start], axis=-1)
        head = nn.Dense(self.classes, name="head")
        return Outputs(head(drop(features["last"])), features)
