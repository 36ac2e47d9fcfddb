"""Rows of losses of what maps and attention say together."""

import numpy as np

from tests.losses.law import Law, equal, normal, shaped
from tests.losses.references import feature_structure as reference

PLANE = ((5, 5, 3), (5, 5, 3))
RESIZED_PLANE = ((6, 3, 2), (4, 5, 2))
RESIZED_LINE = ((3, 2), (6, 2))


def _law(name, shapes, hyper=None, **flags):
    """Return a row of maps; both sides have one shape or are pooled to one."""
    flags = {"at_minimum": equal if shapes[0] == shapes[1] else None, **flags}
    return Law(name, shaped(*shapes), getattr(reference, name), hyper or {}, **flags)


def layers(stacked):
    """Split `[batch, i, ...]` into a list of maps."""
    return [stacked[:, i] for i in range(stacked.shape[1])]


def nested(stacked):
    """Split `[batch, i, j, ...]` into lists `[i][j]` of maps."""
    return [layers(row) for row in layers(stacked)]


def stacked(loss):
    """Make lists of maps of arrays `[batch, i, j, *spatial, channels]`."""

    def of_arrays(weights, student, teacher):
        first = weights.reshape(*weights.shape[:3], -1)[..., 0]
        return loss(first, nested(student), nested(teacher))

    return of_arrays


def _calibration(student, teacher):
    def make(rng, batch, scale):
        # a weight is the first of many numbers, so that all arrays can be the same
        shapes = [(batch, 2, 3, *student), (batch, 2, 3, *student)]
        weights, maps = (normal(rng, shape, scale) for shape in shapes)
        return np.abs(weights), maps, normal(rng, (batch, 2, 3, *teacher), scale)

    return Law(
        "semantic_calibration",
        make,
        reference.semantic_calibration,
        adapt=stacked,
        floats=(0, 1, 2),
        at_minimum=lambda w, s, t: (w, s, s),
        gradient_bound=1e9,  # a weight of 1e4 on a difference of 1e4
    )


def layered(loss):
    """Make lists of maps of arrays `[batch, layers, *spatial, channels]`."""

    def of_arrays(student, teacher, *, rank):
        return loss(layers(student), layers(teacher), rank=rank)

    return of_arrays


def _singular(student, teacher, rank):
    def of_arrays(s, t, rank):
        return reference.singular_value(layers(s), layers(t), rank=rank)

    return Law(
        "singular_value",
        shaped(student, teacher),
        of_arrays,
        static={"rank": rank},
        adapt=layered,
        at_minimum=equal if student == teacher else None,
        scale_invariant=(0, 1),
    )


ROWS = [
    _law("hierarchical_context", PLANE),
    _law("hierarchical_context", RESIZED_PLANE),
    _law("hierarchical_context", RESIZED_LINE),
    _law("class_activation", PLANE, static={"size": 2}, scale_invariant=(0, 1)),
    _law("class_activation", RESIZED_PLANE, static={"size": 2}, scale_invariant=(0, 1)),
    _law(
        "class_activation", ((2, 3), (4, 3)), static={"size": 3}, scale_invariant=(0, 1)
    ),
    _calibration((3, 2), (3, 2)),
    _calibration((3, 3, 2), (2, 4, 2)),
    _law("channel_wise_kl", PLANE, {"temperature": 4.0}),
    _law("channel_wise_kl", PLANE, {"temperature": 1.0}),
    _law("channel_wise_kl", RESIZED_LINE, {"temperature": 4.0}),
    _law("channel_correlation", PLANE, scale_invariant=(0, 1)),
    _law("channel_correlation", RESIZED_PLANE, scale_invariant=(0, 1)),
    # 1e-6 beside a std near 0 makes slopes of 1e6, times the tests' weights
    _law("pearson_features", PLANE, per_example=False, gradient_bound=1e7),
    _law("pearson_features", RESIZED_LINE, per_example=False, gradient_bound=1e7),
    _singular((2, 4, 3), (2, 4, 3), rank=2),
    _singular((3, 6, 2), (3, 4, 2), rank=1),
    _law("attention_map_kl", ((2, 4, 4), (2, 4, 4)), minus_inf=True),
    _law("attention_map_kl", ((3, 2, 5), (3, 2, 5)), minus_inf=True),
    # the slope in the teacher: a log-ratio of 1e8, squares of 1e4, on a value of 1e4
    _law("value_relation", ((3, 4), (3, 6)), static={"heads": 2}, gradient_bound=1e13),
    _law("value_relation", ((4, 3), (4, 3)), static={"heads": 1}, gradient_bound=1e13),
]
