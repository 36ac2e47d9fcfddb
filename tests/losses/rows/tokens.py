"""Rows of the losses of tokens and frames."""

import numpy as np

from tests.losses.law import BATCH, CLASSES, Law, equal, normal, shaped
from tests.losses.references import tokens


def stored(k):
    """Return a maker of student logits and the k best of a teacher's."""

    def make(rng, batch, scale):
        student, teacher = (normal(rng, (batch, CLASSES), scale) for _ in range(2))
        ids = np.argsort(-teacher, axis=-1)[:, :k].astype(np.int32)
        return student, np.take_along_axis(log_softmax(teacher), ids, -1), ids

    return make


def log_softmax(logits):
    wide = logits.astype(np.float64)
    peak = wide.max(-1, keepdims=True)
    total = np.exp(wide - peak).sum(-1, keepdims=True)
    return (wide - peak - np.log(total)).astype(np.float32)


def as_stored(student, log_probs, ids):
    """The teacher stores what the student says."""
    return student, np.take_along_axis(log_softmax(student), ids, -1), ids


ROWS = [
    *(
        Law(
            "top_k_kl",
            stored(k),
            tokens.top_k_kl,
            static={"tail": tail},
            # of all classes stored the plain sum is the contract, with its rounding
            at_minimum=as_stored if tail and k < CLASSES else None,
            nonnegative=tail and k < CLASSES,
            shift_invariant=(0,),
            leading_axes=True,
        )
        for k, tail in ((2, True), (2, False), (CLASSES, True))
    ),
    *(
        Law(
            "ctc_frames",
            shaped((3, CLASSES), (frames, CLASSES)),
            tokens.ctc_frames,
            {"temperature": 2.0},
            shape=(BATCH, 3),
            at_minimum=equal if frames == 3 else None,
            minus_inf=True,
        )
        for frames in (3, 7, 2)
    ),
]
