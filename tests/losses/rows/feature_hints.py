"""Rows of losses of features element by element or over space."""

import numpy as np
from jaxtyping import Array, Float

from tests.losses.law import BATCH, Law, equal, normal, shaped
from tests.losses.references import feature_hints as reference

PLANE = ((3, 2, 3), (3, 2, 3))
RESIZED = ((5, 2, 3), (3, 4, 3))
VECTOR = ((6,), (6,))
EVERYWHERE = (PLANE, RESIZED, VECTOR)
# Different numbers of channels; space is larger than them together, or smaller.
WIDE = ((4, 3, 2), (4, 3, 3))
DEEP = ((7, 4), (5, 3))


def _law(name, shapes, hyper=None, **flags):
    flags = {"at_minimum": equal if shapes[0] == shapes[1] else None, **flags}
    return Law(name, shaped(*shapes), getattr(reference, name), hyper or {}, **flags)


def beyond_the_margin(student, teacher):
    """Return a student that is active exactly where the teacher is, and enough."""
    return np.where(teacher > 0, 1.0, -1.0).astype(np.float32) * 3.0, teacher


def gaussian(shapes):
    """Return a maker of means, a scale per channel and the teacher's features."""

    def make(rng, batch, scale):
        mean, teacher = shaped(*shapes)(rng, batch, scale)
        return mean, normal(rng, shapes[0][-1:], scale), teacher

    return make


def margined(shapes):
    """Return a maker of features of both sides and a margin per channel."""

    def make(rng, batch, scale):
        return (
            *shaped(*shapes)(rng, batch, scale),
            -np.abs(normal(rng, shapes[0][-1:], scale)),
        )

    return make


def of_four_maps(loss):
    """Make two pairs of maps of four maps."""

    def of_arrays(
        student_first: Float[Array, "batch *a first_channels"],
        student_second: Float[Array, "batch *b second_channels"],
        teacher_first: Float[Array, "batch *c first_channels"],
        teacher_second: Float[Array, "batch *d second_channels"],
    ) -> Float[Array, " batch"]:
        return loss((student_first, student_second), (teacher_first, teacher_second))

    return of_arrays


def _flow(*shapes, **flags):
    return Law(
        "flow_of_solution",
        shaped(*shapes),
        reference.flow_of_solution,
        adapt=of_four_maps,
        floats=(0, 1, 2, 3),
        gradient_bound=1e14,  # of the fourth degree in features of 1e4
        **flags,
    )


ROWS = [
    *(_law("hint", shapes) for shapes in EVERYWHERE),
    *(_law("cosine_hint", shapes, scale_invariant=(0, 1)) for shapes in EVERYWHERE),
    *(_law("factor_transfer", shapes, scale_invariant=(0, 1)) for shapes in EVERYWHERE),
    *(
        Law(
            "variational_information",
            gaussian(shapes),
            reference.variational_information,
            floats=(0, 1, 2),
            unbatched=(1,),
            nonnegative=False,
            gradient_bound=1e10,  # errors of 2e4 over a variance of 1e-5
        )
        for shapes in EVERYWHERE
    ),
    *(
        _law(
            "activation_boundary",
            shapes,
            {"margin": margin},
            at_minimum=beyond_the_margin if shapes[0] == shapes[1] else None,
        )
        for shapes, margin in (
            (PLANE, 1.0),
            (PLANE, 0.3),
            (RESIZED, 1.0),
            (VECTOR, 2.0),
        )
    ),
    *(
        Law(
            "margin_relu_l2",
            margined(shapes),
            reference.margin_relu_l2,
            floats=(0, 1, 2),
            unbatched=(2,),
            at_minimum=equal if shapes[0] == shapes[1] else None,
        )
        for shapes in EVERYWHERE
    ),
    Law(
        "margin_from_batch_norm",
        shaped((), ()),
        reference.margin_from_batch_norm,
        nonnegative=False,
    ),
    *(
        _law("attention_transfer", shapes, {"power": power}, scale_invariant=(0, 1))
        for shapes, power in (
            *((PLANE, 2.0), (PLANE, 1.0), (PLANE, 0.5), (PLANE, 4.0)),
            *((RESIZED, 2.0), (DEEP, 1.0)),
        )
    ),
    *(
        _law("neuron_selectivity", shapes, scale_invariant=(0, 1))
        for shapes in (PLANE, ((4, 2, 3), (4, 2, 3)), WIDE, DEEP, RESIZED)
    ),
    *(
        Law(
            "flow_matrix",
            shaped(*shapes),
            reference.flow_matrix,
            shape=(BATCH, shapes[0][-1], shapes[1][-1]),
            nonnegative=False,
        )
        for shapes in (WIDE, RESIZED, DEEP)
    ),
    _flow(*PLANE, *PLANE, at_minimum=lambda a, b, *_: (a, b, a, b)),
    _flow((4, 2), (2, 3), (3, 2), (5, 3)),
]
