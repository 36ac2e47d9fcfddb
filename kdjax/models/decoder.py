"""The transformer decoder that says what comes next, and text sampled from it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs, Variables
from kdjax.models._padding import check_tokens

Cache = tuple[tuple[Array, Array], ...]
"""Keys and values of every block, `[batch, length, heads, head_dim]` each."""


class CausalBlock(nn.Module):
    """Self-attention to what came before, then a feed-forward part.

    Args:
      width: number of channels of the residual stream.
      heads: number of attention heads; it divides `width`.
      hidden: number of units of the feed-forward part.
      dropout: fraction of each part's outputs dropped in training.
    """

    width: int
    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Array, cache: tuple[Array, Array] | None, start: Any, train: bool
    ) -> tuple[Array, tuple[Array, Array]]:
        """Map `[batch, tokens, width]`, which stand at `start`, to the same.

        Where there is a cache their keys and values are written into it, and read.
        """
        y = nn.LayerNorm(name="norm1")(x)
        each = (self.heads, self.width // self.heads)
        query, key, value = (
            nn.DenseGeneral(each, name=name)(y) for name in ("query", "key", "value")
        )
        if cache is not None:
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(held, new, start, axis=1)
                for held, new in zip(cache, (key, value), strict=True)
            )
        place = start + jnp.arange(x.shape[1])
        seen = jnp.arange(key.shape[1])[None, :] <= place[:, None]
        y = jax.nn.dot_product_attention(query, key, value, mask=seen[None, None])
        y = nn.DenseGeneral(self.width, axis=(-2, -1), name="out")(y)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        y = nn.LayerNorm(name="norm2")(x)
        y = nn.gelu(nn.Dense(self.hidden, name="expand")(y))
        y = nn.Dense(self.width, name="contract")(y)
        return x + nn.Dropout(self.dropout, deterministic=not train)(y), (key, value)


class Decoder(nn.Module):
    """Embed tokens, then `depth` causal blocks with the norm first, and a linear head.

    Args:
      vocabulary: number of tokens.
      width: number of channels of the residual stream.
      heads: number of attention heads in each block; it divides `width`.
      depth: number of blocks.
      hidden: number of units in the feed-forward part of each block; None is
        `4 * width`.
      length: the most tokens an input can have.
      dropout: fraction of the embeddings and of each part's outputs that is dropped in
        training.

    Call:
      `[batch, tokens]` integer inputs from 0 to `vocabulary - 1`, and `train`, give
      logits `[batch, tokens, vocabulary]` of the token that follows each, and the
      features `hidden1`, `hidden2`, ... `[batch, tokens, width]`, the residual stream
      after each block; `last` `[batch, tokens, width]`, what the head reads; and
      `kernel` `[width, vocabulary]`, the head itself: a loss such as
      `losses.sum_linear_divergence` takes both, and the logits are then never computed.

    Raises:
      ValueError: if a size is not positive, the heads do not divide the width, a rate
        is outside [0, 1], or the inputs are not an integer batch of sequences of at
        most `length`.

    Source: Vaswani et al., "Attention Is All You Need",
    https://arxiv.org/abs/1706.03762 (2017); decoder alone, norm first: Radford et al.,
    "Language Models are Unsupervised Multitask Learners" (GPT-2, 2019).

    >>> import jax
    >>> model = Decoder(vocabulary=99, width=32, heads=4, depth=1, length=16)
    >>> init, tokens = model.init_with_output, jax.numpy.ones((2, 7), int)
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), tokens)
    >>> outputs.logits.shape, outputs.features["kernel"].shape
    ((2, 7, 99), (32, 99))
    """

    vocabulary: int
    width: int
    heads: int
    depth: int
    hidden: int | None = None
    length: int = 512
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes and the rate before anything is built."""
        names = ("vocabulary", "width", "heads", "depth", "length")
        checks.positive("Decoder", **{name: getattr(self, name) for name in names})
        if self.hidden is not None:
            checks.positive("Decoder", hidden=self.hidden)
        checks.fraction("Decoder", dropout=self.dropout)
        checks.heads("Decoder", self.heads, width=self.width)
        super().__post_init__()

    def setup(self) -> None:
        """Make the parts, which `__call__` and `decode` share."""
        # of the scale of the embeddings, so that neither drowns the other
        small = nn.initializers.normal(self.width**-0.5)
        self.embed = nn.Embed(self.vocabulary, self.width)
        self.positions = self.param("positions", small, (self.length, self.width))
        hidden = self.hidden or 4 * self.width
        sizes = self.width, self.heads, hidden, self.dropout
        self.block = [CausalBlock(*sizes) for _ in range(self.depth)]
        self.norm = nn.LayerNorm()
        self.head = self.param(
            "head", nn.initializers.lecun_normal(), (self.width, self.vocabulary)
        )
        self.drop = nn.Dropout(self.dropout)

    def _embedded(self, inputs: Array, start: Any) -> Array:
        tokens = inputs.shape[1]
        here = jax.lax.dynamic_slice_in_dim(self.positions, start, tokens)
        return self.embed(inputs) + here[None]

    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits, the residual stream, and what the logits are made of."""
        check_tokens("Decoder", inputs, self.length)
        x = self.drop(self._embedded(inputs, 0), deterministic=not train)
        features = {}
        for number, block in enumerate(self.block, 1):
            x, _ = block(x, None, 0, train)
            features[f"hidden{number}"] = x
        features["last"] = last = self.norm(x)
        features["kernel"] = self.head
        return Outputs(last @ self.head, features)

    def decode(self, inputs: Array, cache: Cache, start: Any) -> tuple[Array, Cache]:
        """Go on with tokens `[batch, tokens]` that stand at `start`.

        Args:
          inputs: the tokens.
          cache: of what came before, or `empty_cache(batch)`.
          start: the place of the first of them.

        Returns:
          The logits of what follows the last of them, `[batch, vocabulary]`, and the
          cache for what comes next.
        """
        x, after = self._embedded(inputs, start), []
        for block, held in zip(self.block, cache, strict=True):
            x, held = block(x, held, start, False)
            after.append(held)
        return self.norm(x)[:, -1] @ self.head, tuple(after)

    def empty_cache(self, batch: int) -> Cache:
        """Return the cache of no tokens, for `decode`."""
        shape = (batch, self.length, self.heads, self.width // self.heads)
        empty = jnp.zeros(shape)
        return ((empty, empty),) * self.depth


def generate(
    model: Decoder, variables: Variables, prompt: Array, tokens: int, key: Array
) -> Array:
    """Return prompts with what a decoder says after them, token by token.

    Every token is drawn from the model's distribution. What came before is not computed
    again: keys and values are kept.

    Args:
      model: the decoder.
      variables: its variables.
      prompt: `[batch, given]` tokens, at least one each.
      tokens: how many to add; `given + tokens` is at most `model.length`.
      key: a random key.

    Returns:
      `[batch, given + tokens]`, of the dtype of the prompt.

    Raises:
      ValueError: without a prompt, or if there are no positions for so many tokens.

    >>> model = Decoder(vocabulary=9, width=8, heads=2, depth=1, length=6)
    >>> prompt = jnp.ones((2, 3), int)
    >>> def sampled(key):
    ...     return generate(model, model.init(key, prompt), prompt, 3, key)
    >>> jax.eval_shape(sampled, jax.random.key(0)).shape
    (2, 6)
    """
    batch, given = prompt.shape
    checks.integer("generate", 1, model.length - given, tokens=tokens)
    checks.integer("generate", 1, prompt=given)

    def decode(inputs: Array, cache: Cache, start: Any) -> Any:
        return model.apply(variables, inputs, cache, start, method="decode")

    def draw(logits: Array, number: Any) -> Array:
        drawn = jax.random.categorical(jax.random.fold_in(key, number), logits)
        return drawn.astype(prompt.dtype)

    def step(held: tuple[Array, Cache], number: Array) -> tuple[Any, Array]:
        token, cache = held
        logits, cache = decode(token[:, None], cache, given + number)
        return (draw(logits, number + 1), cache), token

    logits, cache = decode(prompt, model.empty_cache(batch), 0)
    first = draw(logits, 0)
    (last, _), said = jax.lax.scan(step, (first, cache), jnp.arange(tokens - 1))
    said = jnp.concatenate([said, last[None]])
    return jnp.concatenate([prompt, said.swapaxes(0, 1)], axis=1)
