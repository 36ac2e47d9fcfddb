"""The transformer encoder that classifies token sequences."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models._narrow import Narrowable
from kdjax.models._padding import check_tokens
from kdjax.units import Place, Units


def _attention(scores: Array, real: Array) -> Array:
    """Return the softmax over real keys; over all of them where none is real.

    Args:
      scores: `[batch, heads, queries, keys]`.
      real: `[batch, keys]` booleans, or `[batch, queries, keys]`: what each query may
        look at.
    """
    seen = real[:, None, None, :] if real.ndim == 2 else real[:, None]
    # The lowest number, not -inf: of padding alone that would be NaN.
    lowest = jnp.finfo(scores.dtype).min
    return jax.nn.softmax(jnp.where(seen, scores, lowest))


class Block(nn.Module):
    """Self-attention, then a feed-forward part, each behind a norm and beside a sum.

    Args:
      width: number of channels of the residual stream.
      heads: number of attention heads.
      head_dim: number of channels of a head; not `width // heads`, because heads can
        be pruned.
      hidden: number of units of the feed-forward part.
      dropout: fraction of each part's outputs dropped in training.
    """

    width: int
    heads: int
    head_dim: int
    hidden: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, real: Array, train: bool = False
    ) -> tuple[Array, Array, Array]:
        """Map `[batch, tokens, width]` to the same, the scores and the values.

        `real` says what is attended to: `[batch, tokens]`, or `[batch, tokens, tokens]`
        for each token on its own, as a causal mask does.
        """
        y = nn.LayerNorm(name="norm1")(x)
        each = (self.heads, self.head_dim)
        query = nn.DenseGeneral(each, name="query")(y)
        key = nn.DenseGeneral(each, name="key")(y)
        value = nn.DenseGeneral(each, name="value")(y)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / self.head_dim**0.5
        y = jnp.einsum("bhqk,bkhd->bqhd", _attention(scores, real), value)
        y = nn.DenseGeneral(self.width, axis=(-2, -1), name="out")(y)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)

        y = nn.LayerNorm(name="norm2")(x)
        y = nn.gelu(nn.Dense(self.hidden, name="expand")(y))
        y = nn.Dense(self.width, name="contract")(y)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        together = (*value.shape[:2], self.heads * self.head_dim)
        return x, scores, value.reshape(together)


class Transformer(Narrowable, nn.Module):
    """Embed tokens, then `depth` blocks with the norm first, and a linear head.

    Args:
      classes: number of logits.
      vocabulary: number of tokens; 0 is padding.
      width: number of channels of the residual stream.
      heads: number of attention heads in each block; it divides `width`.
      depth: number of blocks.
      hidden: number of units in the feed-forward part of each block; None is
        `4 * width`.
      length: the most tokens an input can have.
      dropout: fraction of the embeddings and of each part's outputs that is dropped in
        training.
      sizes: how many heads or feed-forward units a block has, by the name in `units`,
        where they are not those: what is left of a pruned one (`narrowed`).

    Call:
      `[batch, tokens]` integer inputs from 0 to `vocabulary - 1`, and `train`, give
      logits `[batch, classes]` of the mean over the tokens that are not padding, and
      the features `embedded` (before dropout), `hidden1`, `hidden2`, ... `[batch,
      tokens, width]`, the residual stream after each block; `attention1`, ...
      `[batch, heads, tokens, tokens]`, the scaled scores before the softmax, those of
      padding too: a loss of them needs `where=inputs != 0`; and `values1`, ...
      `[batch, tokens, width]`, the values of all heads side by side. A token that is
      not in the vocabulary gives NaN.

    Raises:
      ValueError: if a size is not positive, the heads do not divide the width, a rate
        is outside [0, 1], or the inputs are not an integer batch of sequences of at
        most `length`.

    Source: Vaswani et al., "Attention Is All You Need",
    https://arxiv.org/abs/1706.03762 (2017); the norm first: Xiong et al., "On Layer
    Normalization in the Transformer Architecture", https://arxiv.org/abs/2002.04745
    (2020).

    >>> import jax
    >>> model = Transformer(classes=10, vocabulary=99, width=32, heads=4, depth=1)
    >>> tokens = jax.numpy.ones((2, 7), int)
    >>> init = model.init_with_output
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), tokens)
    >>> outputs.logits.shape, outputs.features["attention1"].shape
    ((2, 10), (2, 4, 7, 7))
    """

    classes: int
    vocabulary: int
    width: int
    heads: int
    depth: int
    hidden: int | None = None
    length: int = 512
    dropout: float = 0.0
    sizes: Mapping[str, int] = core.FrozenDict()

    def __post_init__(self) -> None:
        """Check the sizes and the rate before anything is built."""
        names = ("classes", "vocabulary", "width", "heads", "depth", "length")
        checks.positive("Transformer", **{name: getattr(self, name) for name in names})
        if self.hidden is not None:
            checks.positive("Transformer", hidden=self.hidden)
        checks.fraction("Transformer", dropout=self.dropout)
        checks.heads("Transformer", self.heads, width=self.width)
        super().__post_init__()

    def _heads(self, block: int) -> int:
        return self.sizes.get(f"heads{block}", self.heads)

    def _hidden(self, block: int) -> int:
        whole = 4 * self.width if self.hidden is None else self.hidden
        return self.sizes.get(f"expand{block}", whole)

    def units(self) -> dict[str, Units]:
        """Return the heads and feed-forward units that can be pruned, by name.

        `heads1`, ... are the attention heads of a block, `expand1`, ... the units
        between its two dense layers. The channels of the residual stream are none:
        a norm's mean and variance are over silenced channels too, so removing them
        would change what is left.
        """
        found = {}
        for block in range(1, self.depth + 1):
            made = f"params/block{block}"
            parts = [f"{made}/{part}" for part in ("query", "key", "value")]
            kernels = (Place(f"{part}/kernel", 1) for part in parts)
            biases = (Place(f"{part}/bias", 0) for part in parts)
            found[f"heads{block}"] = Units(
                self._heads(block),
                silenced=(*kernels, *biases),
                indexed=(Place(f"{made}/out/kernel", 0),),
            )
            found[f"expand{block}"] = Units(
                self._hidden(block),
                silenced=(
                    Place(f"{made}/expand/kernel", 1),
                    Place(f"{made}/expand/bias", 0),
                ),
                indexed=(Place(f"{made}/contract/kernel", 0),),
            )
        return found

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits, the residual stream and what attention says."""
        check_tokens("Transformer", inputs, self.length)
        real = inputs != 0
        x = nn.Embed(self.vocabulary, self.width, name="embed")(inputs)
        # of the scale of the embeddings, so that neither drowns the other
        normal = nn.initializers.normal(self.width**-0.5)
        positions = self.param("positions", normal, (self.length, self.width))
        x = x + positions[None, : inputs.shape[1]]
        features = {"embedded": x}
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for number in range(1, self.depth + 1):
            sizes = self._heads(number), self.width // self.heads, self._hidden(number)
            block = Block(self.width, *sizes, self.dropout, name=f"block{number}")
            x, scores, values = block(x, real, train)
            features[f"hidden{number}"] = x
            features[f"attention{number}"] = scores
            features[f"values{number}"] = values
        x = nn.LayerNorm(name="norm")(x)
        # of padding alone it is 0, not 0 / 0
        kept = real.astype(x.dtype)[..., None]
        pooled = (x * kept).sum(axis=1) / jnp.maximum(kept.sum(axis=1), 1)
        return Outputs(nn.Dense(self.classes, name="head")(pooled), features)
