"""The diabetes table, and the ways to follow a teacher that answers with a number."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments._problem import Problem
from kdjax import losses
from kdjax.base import Batch, Outputs

# Part of what the split means: changing it changes every result.
_SEED = 20_170_412


def problem() -> Problem:
    """Return scikit-learn's diabetes table: 442 patients, ten columns, one number."""
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    order = np.random.default_rng(_SEED).permutation(len(table.target))
    parts = np.split(order, [264, 352])
    columns, target = table.data[parts[0]], table.target[parts[0]]
    scale = target.std()

    def split(rows: np.ndarray) -> dict[str, np.ndarray]:
        row = (table.data[rows] - columns.mean(0)) / columns.std(0)
        answer = (table.target[rows] - target.mean()) / scale
        return {"row": row.astype(np.float32), "target": answer.astype(np.float32)}

    def measure(outputs: Outputs, batch: Batch) -> dict[str, Any]:
        error = jnp.square(outputs.logits[:, 0] - batch["target"])
        return {"squared_error": error}

    def finished(means: dict[str, Any], _: int) -> dict[str, float]:
        return {"rmse": float(scale * means["squared_error"] ** 0.5)}

    train, validation, test = map(split, parts)
    return Problem(
        "diabetes",
        train,
        validation,
        test,
        splits=(
            "442 patients, split at random once: train 264, validation 88, test 90; "
            "columns and target are standardised by the training split's moments, "
            "RMSE is in the target's own units (disease progression, 25 to 346)."
        ),
        example=jnp.zeros((1, train["row"].shape[1])),
        inputs="row",
        measure=measure,
        finished=finished,
        figure="rmse",
    )


def labels(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn from the targets."""
    loss = losses.regression_mse(student.logits, batch["target"][:, None])
    return {"hard": loss.mean()}


def imitating(alpha: float) -> Any:
    """Return the squared distance from the teacher beside that from the targets."""

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        soft = losses.regression_mse(student.logits, teacher.logits).mean()
        hard = labels(student, teacher, batch)["hard"]
        return {"soft": alpha * soft, "hard": (1 - alpha) * hard}

    return objective


def bounded(margin: float, weight: float) -> Any:
    """Return what counts only where the student is worse than its teacher."""

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        answers = (student.logits[:, 0], teacher.logits[:, 0], batch["target"])
        soft = losses.bounded_regression(*answers, margin=margin).mean()
        hard = labels(student, teacher, batch)["hard"]
        return {"soft": weight * soft, "hard": hard}

    return objective
