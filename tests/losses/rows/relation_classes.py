"""Rows of relations between class probabilities, contrasts, orders and graphs."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tests.losses.law import CLASSES, Law, equal, logits, normal, shaped
from tests.losses.references import relation_classes as reference

SHARED = {"masks": "examples", "axis_name": True, "per_example": False}
MEMORY = 12
# Constants, as parameters would be: no batch axis, and rows in an arbitrary scale.
_RNG = np.random.default_rng(0)
NEGATIVES = normal(_RNG, (3, 4))
MEMORIES = 0.5 * normal(_RNG, (2, MEMORY, 3))
PARTITION = (7.0, 11.0)


def with_negatives(loss):
    def of_arrays(
        student: Float[Array, "batch dim"],
        teacher: Float[Array, "batch dim"],
        **settings,
    ) -> Float[Array, " batch"]:
        return loss(student, teacher, negatives=jnp.asarray(NEGATIVES), **settings)

    return of_arrays


def _with_negatives(s, t, *, temperature):
    extra = NEGATIVES.astype(np.float64)
    return reference.contrastive(s, t, temperature=temperature, negatives=extra)


def _noise_contrastive(loss, partition):
    def of_arrays(
        student: Float[Array, "batch dim"],
        teacher: Float[Array, "batch dim"],
        indices: Int[Array, " batch"],
        negatives: Int[Array, "batch K"],
        **settings,
    ) -> Float[Array, " batch"]:
        memories = map(jnp.asarray, MEMORIES)
        arrays = student, teacher, *memories, indices, negatives
        values, _, _ = loss(*arrays, partition=partition, **settings)
        return values

    return of_arrays


def first_batch(loss):
    return _noise_contrastive(loss, None)


def later_batch(loss):
    return _noise_contrastive(loss, PARTITION)


def _contrast(partition):
    def of_arrays(s, t, indices, negatives, *, temperature, momentum):
        arrays = s, t, *MEMORIES.astype(np.float64), indices, negatives
        return reference.noise_contrastive(
            *arrays, temperature=temperature, partition=partition
        )

    return of_arrays


def anchors(rng, batch, scale):
    """Draw embeddings whose scores stay below what a float64 exponential holds."""
    student, teacher = (normal(rng, (batch, 3), scale) for _ in range(2))
    own = rng.permutation(MEMORY)[:batch].astype(np.int32)
    return student, teacher, own, rng.integers(0, MEMORY, (batch, 4)).astype(np.int32)


def layers(student, teacher):
    """Split each side into three layers; the last has three dims on both sides."""
    return [
        [side[:, : width - 3][:, ::2], side[:, : width - 3][:, 1::2], side[:, -3:]]
        for side, width in ((student, 7), (teacher, 9))
    ]


def vertex(loss):
    def of_arrays(
        student: Float[Array, "batch s"], teacher: Float[Array, "batch t"], **settings
    ) -> Float[Array, " batch"]:
        return loss(*layers(student, teacher), **settings)[0]

    return of_arrays


def edge_and_transformation(loss):
    def of_arrays(
        student: Float[Array, "batch s"], teacher: Float[Array, "batch t"], **settings
    ) -> Float[Array, " batch"]:
        _, edge, transformation = loss(*layers(student, teacher), **settings)
        return edge + 2 * transformation

    return of_arrays


def _graph(part, adapt, **flags):
    def of_arrays(s, t):
        return part(*reference.relation_graph(*layers(s, t)))

    make = shaped((7,), (9,))
    return Law("relation_graph", make, of_arrays, adapt=adapt, **{**SHARED, **flags})


def _classes(name, *temperatures, **flags):
    return [
        Law(
            name,
            logits(),
            getattr(reference, name),
            {"temperature": temperature},
            shift_invariant=(0, 1),
            minus_inf=True,
            **{**SHARED, **flags},
        )
        for temperature in temperatures
    ]


PER_CLASS = {"values": "other", "shape": (CLASSES,)}

ROWS = [
    *_classes("inter_class_correlation", 1.0, 4.0, per_example=True),
    *_classes("intra_class_correlation", 1.0, alone=1.0, **PER_CLASS),
    *_classes("intra_class_correlation", 4.0, alone=16.0, **PER_CLASS),
    *_classes("class_gram", 4.0, 1.0, at_minimum=equal, **PER_CLASS),
    *_classes("batch_gram", 4.0, 1.0, at_minimum=equal),
    Law(
        "contrastive",
        shaped((3,), (3,)),
        reference.contrastive,
        {"temperature": 0.07},
        alone=0.0,
        scale_invariant=(0, 1),
        **SHARED,
    ),
    Law(
        "contrastive",
        shaped((4,), (4,)),
        _with_negatives,
        {"temperature": 0.2},
        adapt=with_negatives,
        scale_invariant=(0, 1),
        **SHARED,
    ),
    Law(
        "noise_contrastive",
        anchors,
        _contrast(None),
        {"temperature": 0.07, "momentum": 0.5},
        adapt=first_batch,
        detached=True,
        **SHARED,
    ),
    Law(
        "noise_contrastive",
        anchors,
        _contrast(PARTITION),
        {"temperature": 0.3, "momentum": 0.5},
        adapt=later_batch,
        **{**SHARED, "per_example": True},
    ),
    *(
        Law(
            "rank_order",
            shaped((3,), (4,)),
            reference.rank_order,
            hyper,
            {"length": length},
            values="other",
            shape=(1,),
            follows_order=False,
            alone=0.0,
            gradient_bound=1e11,  # α β d^(β − 1), with d up to 4e4
            **SHARED,
        )
        for hyper, length in (
            ({"alpha": 3.0, "beta": 3.0}, 4),
            ({"alpha": 0.5, "beta": 1.0}, 99),
        )
    ),
    _graph(lambda v, e, t: v, vertex, per_example=True),
    _graph(
        lambda v, e, t: e + 2 * t,
        edge_and_transformation,
        alone=0.0,
        scale_invariant=(0, 1),
    ),
]
