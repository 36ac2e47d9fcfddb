"""The convolutional network that classifies token sequences."""

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models._padding import check_tokens


class Convolution(nn.Module):
    """A convolution over time, with zeros around it, as one product of all windows.

    `y_t = Σ_k x_{t + k − p} W_k + b` with `p = (window − 1) // 2`: what `nn.Conv` says,
    whose gradient takes a CPU some ten times as long.

    Args:
      channels: number of output channels.
      window: how many steps it sees at once.
    """

    channels: int
    window: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Map `[batch, time, any]` to `[batch, time, channels]`."""
        _, time, width = inputs.shape
        sizes = (self.window, width, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), sizes)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        before = (self.window - 1) // 2
        around = ((0, 0), (before, self.window - 1 - before), (0, 0))
        padded = jnp.pad(inputs, around)
        shifted = [padded[:, start : start + time] for start in range(self.window)]
        seen = jnp.concatenate(shifted, axis=-1)
        return jnp.dot(seen, kernel.reshape(-1, self.channels)) + bias[None, None]


class TextCNN(nn.Module):
    """Embed tokens, then convolutions side by side, their largest values, and a head.

    Args:
      classes: number of logits.
      vocabulary: number of tokens; 0 is padding.
      width: number of channels of the embedded tokens.
      windows: how many tokens each convolution sees at once.
      channels: number of channels of each convolution; None is `width`.
      dropout: fraction of the embeddings and of the head's inputs that is dropped in
        training.

    Call:
      `[batch, tokens]` integer inputs from 0 to `vocabulary - 1`, padding last, and
      `train`, give logits `[batch, classes]` and the features `embedded`
      `[batch, tokens, width]` (before dropout), `hidden1`
      `[batch, tokens, len(windows) * channels]`, after the ReLU and 0 at padding, and
      `pooled` `[batch, len(windows) * channels]`, its largest values over the tokens.
      A window is centred on each token, with zeros for what is not in the sentence. A
      token that is not in the vocabulary gives NaN.

    Raises:
      ValueError: if a size is not positive, there is no window, a rate is outside
        [0, 1], or the inputs are not an integer batch of sequences.

    Source: Kim, "Convolutional Neural Networks for Sentence Classification",
    https://arxiv.org/abs/1408.5882 (2014).

    >>> import jax
    >>> init = TextCNN(classes=10, vocabulary=99, width=32).init_with_output
    >>> tokens = jax.numpy.ones((2, 7), int)
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), tokens)
    >>> outputs.logits.shape, outputs.features["pooled"].shape
    ((2, 10), (2, 96))
    """

    classes: int
    vocabulary: int
    width: int
    windows: tuple[int, ...] = (3, 4, 5)
    channels: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes and the rate before anything is built."""
        names = ("classes", "vocabulary", "width")
        checks.positive("TextCNN", **{name: getattr(self, name) for name in names})
        if self.channels is not None:
            checks.positive("TextCNN", channels=self.channels)
        if not self.windows:
            raise ValueError("TextCNN: windows must be at least one size, got none")
        for window in self.windows:
            checks.integer("TextCNN", 1, windows=window)
        checks.fraction("TextCNN", dropout=self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits, what the convolutions say and the largest of it."""
        check_tokens("TextCNN", inputs)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = nn.Embed(self.vocabulary, self.width, name="embed")(inputs)
        features = {"embedded": x}
        real = (inputs != 0)[..., None]
        x = jnp.where(real, drop(x), 0)  # as what lies outside of the array
        channels = self.width if self.channels is None else self.channels
        maps = [
            Convolution(channels, window, name=f"conv{number}")(x)
            for number, window in enumerate(self.windows, 1)
        ]
        x = nn.relu(jnp.concatenate(maps, axis=-1))
        # a ReLU is never below the 0 of padding, which is all that padding alone has
        features["hidden1"] = jnp.where(real, x, 0)
        features["pooled"] = features["hidden1"].max(axis=1, initial=0)
        head = nn.Dense(self.classes, name="head")
        return Outputs(head(drop(features["pooled"])), features)
