"""Measuring over a data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import train
from tests.train.toy import (
    CLASSES,
    INPUTS,
    NETWORK,
    ROWS,
    apply,
)


def measure(outputs, teacher, batch):
    right = outputs.logits.argmax(-1) == batch["label"]
    vector = jax.nn.one_hot(batch["label"], CLASSES)
    measured = {"accuracy": right.astype(jnp.float32), "vector": vector}
    if teacher is not None:
        same = outputs.logits.argmax(-1) == teacher.logits.argmax(-1)
        measured["agreement"] = same.astype(jnp.float32)
    return measured


def test_evaluation_leaves_padding_out(batch, teacher):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(11, INPUTS)).astype(np.float32)
    labels = rng.integers(CLASSES, size=11)
    evaluate = train.make_eval(apply, measure, teacher_apply=apply)
    variables = NETWORK.init(jax.random.key(1), images)
    parts = []
    for start in range(0, 11, 4):
        real = len(images[start : start + 4])
        pad = [(0, 4 - real)]
        parts.append({
            "image": np.pad(images[start : start + 4], [*pad, (0, 0)]),
            "label": np.pad(labels[start : start + 4], pad),
            "mask": np.arange(4) < real,
        })  # fmt: skip
    found = evaluate(variables, parts, teacher)
    predicted = (images @ variables["params"]["w"]).argmax(-1)
    taught = (images @ teacher["params"]["w"]).argmax(-1)
    assert found["accuracy"] == pytest.approx((predicted == labels).mean())
    assert found["agreement"] == pytest.approx((predicted == taught).mean())
    np.testing.assert_allclose(found["vector"], np.eye(CLASSES)[labels].mean(0))


def test_evaluation_without_teacher_or_mask(batch):
    evaluate = train.make_eval(apply, measure)
    variables = NETWORK.init(jax.random.key(1), batch["image"])
    found = evaluate(variables, [batch | {"mask": jnp.ones(ROWS, bool)}] * 2)
    assert set(found) == {"accuracy", "vector"}
    with pytest.raises(ValueError, match="no batches"):
        evaluate(variables, [])
    with pytest.raises(ValueError, match="leave no example"):
        evaluate(variables, [batch | {"mask": jnp.zeros(ROWS, bool)}])
