"""Rows of the table: networks trained over a grid, tested, and what they cost."""

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._fit import Fit
from experiments._workdir import Run
from kdjax import metrics, processes, report, trees
from kdjax.base import Network, Variables


def place_of(run: Run, name: str, rate: float, seed: int) -> tuple[str, Path]:
    """Return what a network of a row is called, and where its checkpoints lie."""
    label = f"{name.replace(' ', '-')}/lr{rate!r}-seed{seed}"
    return label, run.directory / "checkpoints" / label


def tuned(
    name: str, fit: Fit, learning_rates: Sequence[float], seeds: Sequence[int]
) -> report.Row:
    """Train a grid of learning rates and seeds; test those of the best rate.

    The rate is chosen by the mean figure on the validation split over the seeds. Each
    network is initialised and fed by its seed alone, so that rows can be compared seed
    by seed. The finished row is kept in the run's directory.

    Returns:
      The row, without costs.
    """
    problem, tried, chosen = fit.problem, [], math.nan
    chosen_by = f"validation_{problem.figure}"
    best: tuple[float, float, list[Any], list[Variables]] = (-math.inf, 0, [], [])
    for rate in learning_rates:
        rows, networks = [], []
        for seed in seeds:
            label, place = place_of(fit.run, name, rate, seed)
            variables = fit(label, place, seed, rate)
            found = fit.measure(variables, "validation")[problem.figure]
            sha256 = trees.fingerprint(fit.export(variables)["params"])
            networks.append(variables)
            rows.append({"seed": seed, "network": label, "sha256": sha256})
            tried.append({**rows[-1], chosen_by: found})
        mean = float(np.mean([row[chosen_by] for row in tried[-len(rows) :]]))
        score = problem.score({problem.figure: mean})
        if score > best[0]:  # so that no other rate's networks stay in memory
            best, chosen = (score, rate, rows, networks), mean
    _, rate, rows, networks = best
    figures = [
        {**row, **fit.measure(variables, "test")}
        for row, variables in zip(rows, networks, strict=True)
    ]
    settings = {"learning_rate": rate, chosen_by: chosen, "tried": tried}
    row = report.Row(name, figures, {}, settings)
    _keep(fit.run, row)
    return row


def _keep(run: Run, row: report.Row) -> None:
    if processes.is_main():
        folder = run.directory / "rows"
        folder.mkdir(exist_ok=True)
        report.write_json(folder / f"{row.name}.json", dataclasses.asdict(row))
    processes.together()  # what one has written, the others may read


def forget(run: Run, name: str) -> None:
    """Drop a finished row, so that it is made again from what is left of it."""
    if processes.is_main():
        (run.directory / "rows" / f"{name}.json").unlink(missing_ok=True)


def kept(run: Run, name: str) -> report.Row | None:
    """Return the row that an earlier start of this run finished, if it can be read."""

    def read() -> dict[str, Any] | None:
        try:
            text = (run.directory / "rows" / f"{name}.json").read_text()
            return dataclasses.asdict(report.Row(**json.loads(text)))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, TypeError):
            again = "making it again from its checkpoints."
            run.say(f"The row {name!r} is damaged; {again}")
            return None

    found = processes.first(read)
    return None if found is None else report.Row(**found)


def with_costs(
    networks_of: Sequence[tuple[report.Row, Network]], example: Any
) -> list[report.Row]:
    """Return the rows with what one example costs, all measured side by side.

    Rows of one network, such as students that differ in how they were taught, have one
    cost. It does not depend on the values of the parameters.
    """
    distinct = list(dict.fromkeys(network for _, network in networks_of))
    calls, costs = {}, {}
    for network in distinct:
        shapes = jax.eval_shape(network.init, jax.random.key(0), example)
        variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        forward = jax.jit(lambda v, x, apply=network.apply: apply(v, x)[0].logits)
        calls[network] = partial(forward, variables, example)
        flops = metrics.flops(network.apply, variables, example)
        costs[network] = {**metrics.size(variables), "flops": flops}
    # by one alone: several at once would be in each other's way
    seconds = processes.first(lambda: [*metrics.latency(calls).values()])
    seconds = dict(zip(calls, seconds, strict=True))
    return [
        dataclasses.replace(row, cost={**costs[network], "latency": seconds[network]})
        for row, network in networks_of
    ]
