"""Recommenders: scores of all items for a user, or for what a user did last."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models.transformer import Block


def _integers(function: str, inputs: Any, ndim: int, shape: str) -> None:
    """Raise unless the inputs are integers with so many axes."""
    kind = str(getattr(inputs, "dtype", type(inputs).__name__))
    if "int" not in kind or inputs.ndim != ndim:
        got = f"{kind}{list(getattr(inputs, 'shape', ()))}"
        raise ValueError(f"{function}: inputs must be integers {shape}, got {got}")


class Factorization(nn.Module):
    """Matrix factorisation: `s_ui = p_u · q_i + b_i`.

    Args:
      users: number of users.
      items: number of items, of which each has a score.
      width: number of factors.
      dropout: fraction of a user's factors that is dropped in training.

    Call:
      `[batch]` integer users from 0 to `users - 1`, and `train`, give scores `[batch,
      items]` and the feature `user` `[batch, width]`, the factors of the user. A user
      that there is not gives NaN.

    Raises:
      ValueError: if a size is not positive, the rate is outside [0, 1], or the inputs
        are not an integer batch of users.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender
    systems" (2009), https://doi.org/10.1109/MC.2009.263

    >>> import jax
    >>> init = Factorization(users=9, items=50, width=4).init_with_output
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), jax.numpy.arange(3))
    >>> outputs.logits.shape, outputs.features["user"].shape
    ((3, 50), (3, 4))
    """

    users: int
    items: int
    width: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes and the rate before anything is built."""
        sizes = {"users": self.users, "items": self.items, "width": self.width}
        checks.positive("Factorization", **sizes)
        checks.fraction("Factorization", dropout=self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return the scores of all items, and the user's factors."""
        _integers("Factorization", inputs, 1, "[batch]")
        user = nn.Embed(self.users, self.width, name="user")(inputs)
        dropped = nn.Dropout(self.dropout, deterministic=not train)(user)
        # a dense layer whose columns are the items' factors, and its bias theirs
        scores = nn.Dense(self.items, name="item")(dropped)
        return Outputs(scores, {"user": user})


class SequentialRecommender(nn.Module):
    """SASRec: causal self-attention over what a user did; the last position scores.

    Each of the `depth` blocks of `Transformer` sees an item and those before it. The
    score of item i is `x · e_i`, with x the normed last position and e_i the embedding
    that the item is read with.

    Args:
      items: number of items, of which each has a score.
      width: number of channels of the residual stream and of an item's embedding.
      heads: number of attention heads in each block; it divides `width`.
      depth: number of blocks.
      hidden: number of units in the feed-forward part of each block; None is `width`.
      length: the most items a history can have.
      dropout: fraction of the embeddings and of each part's outputs that is dropped in
        training.

    Call:
      `[batch, time]` integer histories of items from 1 to `items`, the latest last,
      with padding of 0 in front, and `train`, give scores `[batch, items]`, column
      `i - 1` that of item i, and the features `embedded` (before dropout), `hidden1`,
      `hidden2`, ... `[batch, time, width]`, the residual stream after each block,
      `attention1`, ... `[batch, heads, time, time]`, the scaled scores before mask and
      softmax, and `last` `[batch, width]`, what the scores are a product of. Padding
      in front changes no score; padding alone gives scores, too. An item that there is
      not gives NaN.

    Raises:
      ValueError: if a size is not positive, the heads do not divide the width, a rate
        is outside [0, 1], or the inputs are not an integer batch of histories of at
        most `length`.

    Source: Kang and McAuley, "Self-attentive sequential recommendation",
    https://arxiv.org/abs/1808.09781 (2018), with the norm before and not after each
    part, and GELU.

    >>> import jax
    >>> init = SequentialRecommender(items=50, width=8, length=7).init_with_output
    >>> history = jax.numpy.ones((3, 7), int)
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), history)
    >>> outputs.logits.shape, outputs.features["hidden1"].shape
    ((3, 50), (3, 7, 8))
    """

    items: int
    width: int
    heads: int = 1
    depth: int = 1
    hidden: int | None = None
    length: int = 20
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes and the rate before anything is built."""
        names = ("items", "width", "heads", "depth", "length")
        sizes = {name: getattr(self, name) for name in names}
        if self.hidden is not None:
            sizes["hidden"] = self.hidden
        checks.positive("SequentialRecommender", **sizes)
        checks.fraction("SequentialRecommender", dropout=self.dropout)
        checks.heads("SequentialRecommender", self.heads, width=self.width)
        super().__post_init__()

    def _check(self, inputs: Any) -> None:
        """Raise unless the inputs are histories that there are positions for."""
        _integers("SequentialRecommender", inputs, 2, "[batch, time]")
        if not 1 <= inputs.shape[1] <= self.length:
            raise ValueError(
                f"SequentialRecommender: inputs must be [batch, time] with 1 to "
                f"{self.length} items (length=), got {list(inputs.shape)}"
            )

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return the scores of all items, the residual stream and the attention."""
        self._check(inputs)
        time = inputs.shape[1]
        embed = nn.Embed(self.items + 1, self.width, name="embed")
        normal = nn.initializers.normal(self.width**-0.5)
        positions = self.param("positions", normal, (self.length, self.width))
        # counted from the end, so that padding in front moves nothing
        x = embed(inputs) + positions[None, self.length - time :]
        features = {"embedded": x}
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        seen = (inputs != 0)[:, None, :] & jnp.tri(time, dtype=bool)[None]
        hidden = self.width if self.hidden is None else self.hidden
        sizes = self.heads, self.width // self.heads, hidden
        for number in range(1, self.depth + 1):
            block = Block(self.width, *sizes, self.dropout, name=f"block{number}")
            x, features[f"attention{number}"], _ = block(x, seen, train)
            features[f"hidden{number}"] = x
        last = nn.LayerNorm(name="norm")(x[:, -1])
        features["last"] = last
        return Outputs(jnp.dot(last, embed.embedding[1:].T), features)
