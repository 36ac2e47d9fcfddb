"""Accuracy of teachers with one layer pruned at a time."""

from collections.abc import Callable
from typing import Any

import jax

from experiments import _problem, _teacher
from experiments._run import Run
from kdjax import data, report
from kdjax.compress import prune

SCORES: dict[str, Callable[[], prune.Score]] = {
    "l1": lambda: prune.l1,
    "random": lambda: prune.random(jax.random.key(0)),
}


def scan(run: Run, config: Any, task: data.Task) -> report.Sensitivity:
    """Return the table of all layers and sparsities."""
    seeds, sparsities = config.seed_list, tuple(sorted(config.sparsities))
    problem = _problem.of(task)
    run.pin("data", task.fingerprint)
    run.expect(len(seeds) * config.teacher_steps)
    recipe, rate = config.recipe(config.teacher_steps), config.teacher_learning_rate
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        teacher = _teacher.get(run, task, config.teacher, recipe, seed, rate)
        run.pin(f"teacher {seed}", teacher.row.seeds[0]["sha256"])
        network, whole = teacher.fit.exported, teacher.variables

        def accuracy(params: Any, network: Any = network, whole: Any = whole) -> float:
            variables = {**whole, "params": params}
            return problem.figures(network, variables, "validation")["accuracy"]

        curves = prune.sensitivity(
            accuracy, whole["params"], sparsities, score=SCORES[config.norm]()
        )
        for layer, curve in curves.items():
            found.setdefault(layer, []).append({"seed": seed, "accuracy": curve})
    rows = [report.Row(layer, figures, {}) for layer, figures in found.items()]
    over = f"mean ± std over {len(seeds)} seeds" if len(seeds) > 1 else "1 seed"
    return report.Sensitivity(
        f"Layers of {task.name} pruned one at a time ({config.norm}); validation "
        f"split, accuracy %, {over}",
        rows,
        notes=(
            "Nothing was trained after pruning. Biases and norms stay whole.",
            f"{task.name}: {task.splits}",
        ),
        sparsities=sparsities,
    )
