"""Masking is dropping: of classes, and of examples."""

import numpy as np
import pytest

from tests.losses.law import BATCH, Law
from tests.losses.programs import assert_close, evaluate, weights
from tests.losses.table import PROGRAMS, having, replace

JUNK = pytest.mark.parametrize("junk", [0.0, 3e4, -np.inf, np.nan])


@having(PROGRAMS, "masks", "classes")
@JUNK
def test_masking_is_dropping(law: Law, junk):
    args = law.draw(seed=8)
    keep = np.array([True, False, True, True, False])
    dropped = replace(args, law.floats, lambda a: np.ascontiguousarray(a[:, keep]))
    spoiled = replace(args, law.floats, lambda a: np.where(keep, a, np.float32(junk)))
    values, gradients, _ = evaluate(law, dropped, quick=True)
    where = np.broadcast_to(keep, spoiled[0].shape)
    masked, masked_gradients, _ = evaluate(law, spoiled, quick=True, where=where)
    np.testing.assert_allclose(masked, values, rtol=1e-5, atol=1e-6)
    for gradient, full in zip(gradients, masked_gradients, strict=True):
        assert_close(full[:, keep], gradient, rtol=1e-5)
        assert np.all(full[:, ~keep] == 0)


@having(PROGRAMS, "masks", "classes")
def test_everything_masked_is_nothing(law: Law):
    where = np.ones((BATCH, law.draw()[0].shape[-1]), bool)
    where[1] = False
    values, gradients, _ = evaluate(law, law.draw(), quick=True, where=where)
    unmasked, _, _ = evaluate(law, law.draw())
    assert values[1] == 0
    assert all(np.all(gradient[1] == 0) for gradient in gradients)
    rest = np.arange(BATCH) != 1
    np.testing.assert_allclose(values[rest], unmasked[rest], rtol=1e-5, atol=1e-6)


@having(PROGRAMS, "masks", "examples")
@JUNK
def test_masking_examples_is_dropping_them(law: Law, junk):
    keep = np.arange(BATCH + 4) % 3 != 1  # as many as there are without a mask
    args = law.draw(seed=15, batch=len(keep))
    batched = [i for i in law.floats if i not in law.unbatched]
    dropped = law.by_example(args, lambda a: a[keep])
    spoiled = tuple(a.copy() for a in args)
    for position in batched:
        spoiled[position][~keep] = junk
    values, gradients, _ = evaluate(law, dropped)
    cotangent = weights(values.shape)
    if law.values == "examples":
        cotangent = np.ones(len(keep), np.float32)  # no weight brings a masked row back
        cotangent[keep] = weights(values.shape)
    masked, masked_gradients, _ = evaluate(
        law, spoiled, quick=True, where=keep, cotangent=cotangent
    )
    if law.values == "examples":
        assert np.all(masked[~keep] == 0)
        masked = masked[keep]
    np.testing.assert_allclose(masked, values, rtol=1e-5, atol=1e-6)
    for i, gradient, full in zip(law.floats, gradients, masked_gradients, strict=True):
        kept = keep if i in batched else np.ones(len(full), bool)
        assert_close(full[kept], gradient, rtol=1e-5)
        assert np.all(full[~kept] == 0)
