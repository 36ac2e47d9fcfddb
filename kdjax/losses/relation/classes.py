"""Relations between class probabilities: of the classes, and of the examples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import Scalar, l2_normalize, scalar
from kdjax.losses._softmax import LogSoftmax, log_softmax
from kdjax.losses.relation._columns import Rows, check_where, rows


def _arrays(
    function: str,
    student_logits: Array,
    teacher_logits: Array,
    temperature: Scalar,
    where: Array | None,
    axis_name: str | None,
) -> tuple[Rows, Array]:
    """Check the arguments; return the examples and the temperature."""
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    where = None if where is None else jnp.asarray(where)
    checks.logits(function, student_logits=student, teacher_logits=teacher)
    if student.ndim != 2:
        raise ValueError(
            f"{function}: logits must be [batch, classes]: student_logits "
            f"{list(student.shape)}, teacher_logits {list(teacher.shape)}"
        )
    check_where(function, where, len(student))
    checks.positive(function, temperature=temperature)
    examples = rows(where, axis_name, student, teacher)
    temperature = scalar(function, "temperature", temperature, examples.local[0])
    return examples, temperature


def _deviations(p: LogSoftmax) -> Float[Array, "*batch classes"]:
    """`p_c − 1/C`, with all its digits: at high temperature p is all but 1/C."""
    narrow = p.scaled.min(axis=-1, keepdims=True) > -1.0
    size = jnp.where(narrow, jnp.expm1(p.scaled), jnp.exp(p.scaled))
    return (size - size.mean(axis=-1, keepdims=True)) * jnp.exp(-p.log_norm)


def _norm(array: Array, axis: int) -> Array:
    square = jnp.square(array).sum(axis=axis)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _pearson_distance(a: Array, b: Array, axis: int) -> Array:
    """`1 − ⟨a, b⟩ / (‖a‖‖b‖ + 1e-8)` of centred vectors, without cancellation.

    For unit vectors `1 − ⟨â, b̂⟩ = ½ ‖â − b̂‖²`.
    """
    between = l2_normalize(a, axis) - l2_normalize(b, axis)
    norms = _norm(a, axis) * _norm(b, axis)
    apart = 0.5 * norms * jnp.square(between).sum(axis=axis)
    return (apart + 1e-8) / (norms + 1e-8)


def inter_class_correlation(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return how little the two sides' class probabilities correlate, per example.

    `T² (1 − ρ)`, `ρ = ⟨a, b⟩ / (‖a‖‖b‖ + 1e-8)` with a and b the student's and the
    teacher's `softmax(z / T)` less their mean over the classes; `ρ = 0` where one of
    them is constant. At equality `1 − ρ` is `1e-8 / (‖a‖² + 1e-8)`, all but 0.

    Published weight: 2 (at T = 4; 1 at T = 1).
    Use when the teacher is much stronger, so that its exact probabilities are out of
    the student's reach but their order is not.

    Args:
      student_logits: `[batch, classes]`.
      teacher_logits: `[batch, classes]`.
      temperature: `T > 0`.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over; no value here depends
        on another example.

    Returns:
      `[batch]`, one value per example, 0 where masked; `.mean()` is the published
      loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.array([[0.0, 2.0, 4.0]]), jnp.array([[4.0, 2.0, 0.0]])
    >>> inter_class_correlation(student, teacher).round(4)
    Array([1.676], dtype=float32)

    Huang et al., DIST, 2022: https://arxiv.org/abs/2205.10536
    """
    examples, temperature = _arrays(
        "inter_class_correlation",
        student_logits,
        teacher_logits,
        temperature,
        where,
        axis_name,
    )
    a, b = (_deviations(log_softmax(z, temperature)) for z in examples.local)
    values = temperature**2 * _pearson_distance(a, b, axis=-1)
    return jnp.where(examples.kept, values, 0.0)


def _centred(array: Array, kept: Array) -> Array:
    """Subtract the mean of the kept rows; exactly 0 where a column is constant."""
    kept = kept[:, None]
    lowest = jnp.where(kept, array, jnp.inf).min(axis=0, keepdims=True)
    lowest = jax.lax.stop_gradient(jnp.where(kept.any(), lowest, 0.0))
    above = jnp.where(kept, array - lowest, 0.0)  # a constant column is 0 from here on
    count = jnp.maximum(kept.sum(dtype=array.dtype), 1.0)
    return jnp.where(kept, above - above.sum(axis=0, keepdims=True) / count, 0.0)


def _over_the_batch(logits: Array, temperature: Array, kept: Array) -> Array:
    """Class probabilities less their mean over the kept examples.

    Where no example is sure, the deviations from 1/C keep more digits. One form for
    all: rows of both, or a small probability less 1/C, would differ by rounding, and
    rounding is all there is in the column of a class that nobody has.
    """
    p = log_softmax(logits, temperature)
    unsure = ((p.scaled.min(axis=-1) > -1.0) | ~kept).all()
    return _centred(jnp.where(unsure, _deviations(p), p.probs), kept)


def intra_class_correlation(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    *,
    temperature: Scalar = 1.0,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " classes"]:
    """Return how little the two sides rank the examples of a class alike, per class.

    `T² (1 − ρ_c)`, `ρ_c = ⟨a, b⟩ / (‖a‖‖b‖ + 1e-8)` with a and b the student's and the
    teacher's `softmax(z / T)` of class c over the batch, less their mean; `ρ_c = 0`
    where one of them is constant, hence `T²` for a batch of one.

    Published weight: 2 (at T = 4; 1 at T = 1).
    Use when batches are large enough for a class to be compared across examples,
    beside `inter_class_correlation`.

    Args:
      student_logits: `[batch, classes]`.
      teacher_logits: `[batch, classes]`.
      temperature: `T > 0`.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over: every device returns
        the values of the whole batch.

    Returns:
      `[classes]`, one value per class; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.array([[0.0, 4.0], [4.0, 0.0]]), jnp.zeros((2, 2))
    >>> intra_class_correlation(student, teacher)
    Array([1., 1.], dtype=float32)

    Huang et al., DIST, 2022: https://arxiv.org/abs/2205.10536
    """
    examples, temperature = _arrays(
        "intra_class_correlation",
        student_logits,
        teacher_logits,
        temperature,
        where,
        axis_name,
    )
    a, b = (
        _over_the_batch(z, temperature, examples.columns_kept) for z in examples.columns
    )
    return temperature**2 * _pearson_distance(a, b, axis=0)


def class_gram(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    *,
    temperature: Scalar = 4.0,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " classes"]:
    """Return the squared difference of the class-by-class Gram matrices, per class.

    `Σ_d (G_s − G_t)²_cd`, `G = Pᵀ P` with P the `[batch, classes]` probabilities
    `softmax(z / T)` of the student and of the teacher.

    Published weight: 1, summed over the temperatures 2, 3, 4, 5 and 6.
    Use when the classes are few enough for a `[classes, classes]` matrix and how often
    they are confused matters.

    Args:
      student_logits: `[batch, classes]`.
      teacher_logits: `[batch, classes]`.
      temperature: `T > 0`.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over: every device returns
        the values of the whole batch.

    Returns:
      `[classes]`, one value per class; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> class_gram(student, teacher, temperature=1.0)
    Array([0.625, 0.125], dtype=float32)

    Jin, Wang and Lin, MLKD, 2023:
    https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
    """
    examples, temperature = _arrays(
        "class_gram", student_logits, teacher_logits, temperature, where, axis_name
    )
    q, p = (log_softmax(z, temperature) for z in examples.columns)
    change = _deviations(q) - _deviations(p)
    change = jnp.where(examples.columns_kept[:, None], change, 0.0)
    # G_s − G_t as products with the change of P, so that nothing cancels
    first = jnp.matmul(change.T, q.probs, precision="highest")
    second = jnp.matmul(p.probs.T, change, precision="highest")
    return jnp.square(first + second).sum(axis=-1)


def _changes(
    logits: tuple[Array, ...], kept: Array, temperature: Array
) -> tuple[Array, Array, Array]:
    """Return what is left of both sides' P less `1/C`, and the difference.

    `P Pᵀ` differs by 1/C from the same product of these, in which nothing cancels.
    """
    a, b = (_deviations(log_softmax(z, temperature)) for z in logits)
    a, b = jnp.where(kept[:, None], a, 0.0), jnp.where(kept[:, None], b, 0.0)
    return a, b, a - b


def batch_gram(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    *,
    temperature: Scalar = 4.0,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return the squared difference of the example-by-example Gram matrices.

    `Σ_j (G_s − G_t)²_ij`, `G = P Pᵀ` with P the `[batch, classes]` probabilities
    `softmax(z / T)` of the student and of the teacher.

    Published weight: 1, summed over the temperatures 2, 3, 4, 5 and 6.
    Use when the similarity of the examples' predictions should carry over, beside
    `soft_target_kl`.

    Args:
      student_logits: `[batch, classes]`.
      teacher_logits: `[batch, classes]`.
      temperature: `T > 0`.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over: rows stay local,
        columns are gathered.

    Returns:
      `[batch]`, one value per example, 0 where masked; `.mean()` is the published
      loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> student, teacher = jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> batch_gram(student, teacher, temperature=1.0)
    Array([0.25], dtype=float32)

    Jin, Wang and Lin, MLKD, 2023:
    https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
    """
    examples, temperature = _arrays(
        "batch_gram", student_logits, teacher_logits, temperature, where, axis_name
    )
    _, b, change = _changes(examples.local, examples.kept, temperature)
    a_columns, _, change_columns = _changes(
        examples.columns, examples.columns_kept, temperature
    )
    first = jnp.matmul(change, a_columns.T, precision="highest")
    second = jnp.matmul(b, change_columns.T, precision="highest")
    return jnp.square(first + second).sum(axis=-1)
