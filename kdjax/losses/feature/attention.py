"""What the attention of a transformer says: its maps, and relations of its values."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import upcast
from kdjax.losses._softmax import kl, log_ratio, log_softmax


def _check_tokens(function: str, where: Array | None, batch: int, tokens: int) -> None:
    """Raise unless `where` is None or booleans `[batch, tokens]`."""
    checks.mask(function, where, (batch, tokens))
    if where is not None and where.shape != (batch, tokens):
        raise ValueError(
            f"{function}: where must be [batch, tokens] = [{batch}, {tokens}], "
            f"got {list(where.shape)}"
        )


def _attention_kl(student: Array, teacher: Array, where: Array | None) -> Array:
    """Mean over heads and real queries of the KL from teacher to student."""
    pairs = None
    if where is not None:  # a masked query has no key, hence no probability at all
        pairs = where[:, None, :, None] & where[:, None, None, :]
    q, p = log_softmax(student, where=pairs), log_softmax(teacher, where=pairs)
    divergence = kl(p.probs, q.probs, log_ratio(p, q)).mean(axis=1)
    if where is None:
        return divergence.mean(axis=1)
    kept = where.sum(axis=1, dtype=divergence.dtype)
    return divergence.sum(axis=1) / jnp.maximum(kept, 1.0)


def attention_map_kl(
    student_logits: Float[Array, "batch heads queries keys"],
    teacher_logits: Float[Array, "batch heads queries keys"],
    *,
    where: Bool[Array, "batch tokens"] | None = None,
) -> Float[Array, " batch"]:
    """Return the KL from the teacher's attention distributions to the student's.

    `mean_{h,i} Σ_j p_hij (log p_hij − log q_hij)` over the heads h and queries i, with
    `p = softmax_j(teacher_logits)` and `q = softmax_j(student_logits)` over the keys.

    Published weight: 1.
    Use when student and teacher have the same number of attention heads, commonly in
    the last layer of each.

    Args:
      student_logits: `[batch, heads, queries, keys]`, the scaled scores before the
        softmax; −inf where a query may not see a key.
      teacher_logits: the same shape.
      where: `[batch, tokens]`, False for padding, in self-attention only (as many
        queries as keys). A padded key has no probability, and a padded query is left
        out of the mean. With nothing left, an example is 0.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.zeros((1, 1, 2, 2))
    >>> teacher = jnp.array([[[[1.0, 1.0], [0.0, 99.0]]]])
    >>> attention_map_kl(student, teacher).round(4)  # (0 + log 2) / 2
    Array([0.3466], dtype=float32)

    Wang et al., MiniLM, 2020: https://arxiv.org/abs/2002.10957
    """
    name = "attention_map_kl"
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    where = None if where is None else jnp.asarray(where)
    checks.logits(name, student_logits=student, teacher_logits=teacher)
    if student.ndim != 4 or 0 in student.shape[1:]:
        raise ValueError(
            f"{name}: logits must be [batch, heads, queries, keys] with none of size 0 "
            f"but the batch, got {list(student.shape)}"
        )
    batch, _, queries, keys = student.shape
    if where is not None and queries != keys:
        raise ValueError(
            f"{name}: where marks the tokens of self-attention, but there are {queries}"
            f" queries and {keys} keys; give keys that may not be seen logits of -inf"
        )
    _check_tokens(name, where, batch, keys)
    student, teacher = upcast(student, teacher)
    return _attention_kl(student, teacher, where)


def _relation(hidden: Array, heads: int, where: Array | None) -> Array:
    """Scaled dot products of all tokens `[batch, heads, tokens, tokens]`."""
    batch, tokens, dim = hidden.shape
    if where is not None:  # so that nothing in the padding reaches a product
        hidden = jnp.where(where[..., None], hidden, 0.0)
    # A gradient has products of three: a value, and a divergence of products of two.
    most = (float(jnp.finfo(hidden.dtype).max) * 1e-6) ** (1 / 3)
    split = jnp.clip(hidden, -most, most).reshape(batch, tokens, heads, dim // heads)
    scores = jnp.einsum("bqhd,bkhd->bhqk", split, split, precision="highest")
    return scores / (dim // heads) ** 0.5


def value_relation(
    student: Float[Array, "batch tokens student_hidden"],
    teacher: Float[Array, "batch tokens teacher_hidden"],
    *,
    heads: int,
    where: Bool[Array, "batch tokens"] | None = None,
) -> Float[Array, " batch"]:
    """Return the KL between how values relate to each other, teacher to student.

    `mean_{h,i} Σ_j p_hij (log p_hij − log q_hij)` over the heads h and tokens i, with
    p and q the softmax over j of `V Vᵀ / √d` in each relation head of d dimensions, of
    the teacher's values V and of the student's. Queries and keys may take the place of
    values.

    Published weight: 1 for each relation.
    Use when transformers differ in width or in attention heads: only tokens are
    compared with tokens.

    Args:
      student: `[batch, tokens, hidden]`, the values of all heads side by side.
      teacher: the same batch and tokens; its hidden size may differ.
      heads: the number of relation heads; it divides both hidden sizes.
      where: `[batch, tokens]`, False for padding. A padded token has no probability
        and is left out of the mean. With nothing left, an example is 0.

    Returns:
      `[batch]`, one value per example; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or the number of heads is not as above.

    >>> student = jnp.array([[[1.0], [0.0]]])  # two tokens, one dimension
    >>> value_relation(student, jnp.zeros((1, 2, 4)), heads=1).round(4)
    Array([0.0601], dtype=float32)

    Wang et al., MiniLM, 2020: https://arxiv.org/abs/2002.10957;
    MiniLMv2, 2021: https://arxiv.org/abs/2012.15828
    """
    name = "value_relation"
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    where = None if where is None else jnp.asarray(where)
    checks.floating(name, student=student, teacher=teacher)
    shapes = f"student {list(student.shape)}, teacher {list(teacher.shape)}"
    if any(a.ndim != 3 or 0 in a.shape[1:] for a in (student, teacher)):
        raise ValueError(
            f"{name}: values must be [batch, tokens, hidden] with none of size 0 "
            f"but the batch: {shapes}"
        )
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(f"{name}: batch and tokens must be equal: {shapes}")
    if heads < 1 or student.shape[2] % heads or teacher.shape[2] % heads:
        raise ValueError(
            f"{name}: heads must divide both hidden sizes, got {heads}: {shapes}"
        )
    _check_tokens(name, where, *student.shape[:2])
    student, teacher = upcast(student, teacher)
    return _attention_kl(
        _relation(student, heads, where), _relation(teacher, heads, where), where
    )
