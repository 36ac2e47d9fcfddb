"""Rows of relation losses on embeddings."""

from tests.losses.law import Law, equal, shaped
from tests.losses.references import relation_geometry as reference


def _relation(name, *shapes, **flags):
    return Law(
        name,
        shaped(*shapes),
        getattr(reference, name),
        per_example=False,
        alone=0.0,
        at_minimum=equal if shapes[0] == shapes[1] else None,
        scale_invariant=(0, 1),
        masks="examples",
        axis_name=True,
        **flags,
    )


SAME, OTHER = ((4,), (4,)), ((5,), (2, 3))  # [batch, ...] is flattened

ROWS = [
    *(_relation("rkd_distance", *shapes) for shapes in (SAME, OTHER)),
    *(_relation("rkd_angle", *shapes) for shapes in (SAME, OTHER)),
    *(_relation("similarity_preserving", *shapes) for shapes in (SAME, OTHER)),
    *(
        # the 1e-7 allow values of −1e-14 near the minimum
        _relation("probabilistic_transfer", *shapes, nonnegative=False)
        for shapes in (SAME, OTHER)
    ),
    _relation("correlation_congruence", *SAME, hyper={"gamma": 0.4}),
    _relation(
        "correlation_congruence", *OTHER, hyper={"gamma": 1.5}, static={"order": 5}
    ),
]
