"""Recurrent networks over frames of speech, of any length in one batch."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models.rnn import GRULayer


def _reversed(x: Array, lengths: Array) -> Array:
    """Turn each utterance of `[time, batch, any]` round within its own length."""
    time = jnp.arange(x.shape[0])[:, None]
    source = jnp.where(time < lengths[None], lengths[None] - 1 - time, time)
    return jnp.take_along_axis(x, source[..., None], axis=0)


class FrameGRU(nn.Module):
    """Gated recurrent units that classify every frame, and the utterance by their mean.

    Frame logits are a linear head on the last layer's states; those of the utterance
    are their mean over its frames. One-directional layers read no future frame, so
    they can run while somebody speaks; bidirectional ones read each utterance from its
    own end, too. What lies behind an utterance's end changes nothing.

    Args:
      classes: number of logits.
      width: number of units in each layer and direction.
      depth: number of layers.
      bidirectional: whether each layer reads backward, too; the states of both
        directions are concatenated.

    Call:
      A pair of floating frames `[batch, time, features]` and integer lengths `[batch]`
      (cut to [1, time]), and `train`, which changes nothing, give logits
      `[batch, classes]` and the features `frames` `[batch, time, classes]`, frame
      logits, and `hidden1`, `hidden2`, ... `[batch, time, width]`, or twice the width
      where bidirectional. All of them are 0 behind an utterance's end.

    Raises:
      ValueError: if a size is not positive, or the inputs are not as above.

    Source: Schuster and Paliwal, "Bidirectional recurrent neural networks",
    https://doi.org/10.1109/78.650093 (1997), with the units of `GRU`.

    >>> import jax
    >>> init = FrameGRU(classes=10, width=32, bidirectional=True).init_with_output
    >>> inputs = jnp.ones((2, 7, 3)), jnp.array([7, 4])
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), inputs)
    >>> outputs.features["frames"].shape, outputs.features["hidden1"].shape
    ((2, 7, 10), (2, 7, 64))
    """

    classes: int
    width: int
    depth: int = 1
    bidirectional: bool = False

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        sizes = {"classes": self.classes, "width": self.width, "depth": self.depth}
        checks.positive("FrameGRU", **sizes)
        super().__post_init__()

    def _layer(self, number: int, x: Array, lengths: Array) -> Array:
        """Map `[time, batch, any]` to the states of a layer."""
        states, _ = GRULayer(self.width, name=f"layer{number}")(x)
        if not self.bidirectional:
            return states
        backward = GRULayer(self.width, name=f"layer{number}_backward")
        back, _ = backward(_reversed(x, lengths))
        return jnp.concatenate([states, _reversed(back, lengths)], axis=2)

    @nn.compact
    def __call__(self, inputs: tuple[Array, Array], train: bool = False) -> Outputs:
        """Return logits of the utterances, of their frames, and all states."""
        frames, lengths = _checked(inputs)
        time = frames.shape[1]
        lengths = jnp.clip(lengths, 1, time)
        kept = (jnp.arange(time)[:, None] < lengths[None])[..., None]
        # What is scanned lies along the first axis. Padding may hold anything, so it is
        # replaced and not multiplied away.
        x = jnp.where(kept, jnp.swapaxes(frames, 0, 1), 0)
        features: dict[str, Any] = {}
        for layer in range(1, self.depth + 1):
            x = jnp.where(kept, self._layer(layer, x, lengths), 0)
            features[f"hidden{layer}"] = jnp.swapaxes(x, 0, 1)
        logits = jnp.where(kept, nn.Dense(self.classes, name="head")(x), 0)
        features["frames"] = jnp.swapaxes(logits, 0, 1)
        mean = logits.sum(axis=0) / lengths[:, None].astype(logits.dtype)
        return Outputs(mean, features)


def _checked(inputs: Any) -> tuple[Array, Array]:
    if not isinstance(inputs, tuple | list) or len(inputs) != 2:
        raise ValueError(
            "FrameGRU: inputs must be a pair of frames [batch, time, features] and "
            f"lengths [batch], got {type(inputs).__name__}"
        )
    frames, lengths = inputs
    checks.floating("FrameGRU", frames=frames)
    if frames.ndim != 3 or frames.shape[1] == 0:
        raise ValueError(
            "FrameGRU: frames must be [batch, time, features] with at least one frame, "
            f"got {list(frames.shape)}"
        )
    if lengths.shape != frames.shape[:1] or "int" not in lengths.dtype.name:
        raise ValueError(
            f"FrameGRU: lengths must be integers [batch] = {list(frames.shape[:1])}, "
            f"got {lengths.dtype}{list(lengths.shape)}"
        )
    return frames, lengths
