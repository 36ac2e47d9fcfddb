"""Networks that have learned a game from its rewards: kept, reused, the best chosen."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import kdjax
from experiments import _teacher
from experiments._dqn import LOOKS, Learning
from experiments._games import EPISODES, SEEDS
from experiments._lock import Lock
from experiments._rows import place_of
from experiments._workdir import Run, digest
from kdjax import checkpoint, processes, trees
from kdjax.base import Variables

Grid = Sequence[tuple[float, int]]


class Learned(NamedTuple):
    """Networks of some seeds, each as it was when it did best on validation.

    Attributes:
      networks: the variables by seed.
      returns: their mean returns on the validation episodes, by seed.
      rate: the learning rate, which did best in the mean over the seeds.
    """

    networks: dict[int, Variables]
    returns: dict[int, float]
    rate: float

    @property
    def best(self) -> Variables:
        """The variables of the best one."""
        return self.networks[max(self.returns, key=self.returns.__getitem__)]


def learned(run: Run, name: str, learning: Learning, seeds: Sequence[int]) -> Learned:
    """Return networks that learned a game: an earlier run's, or new ones.

    They lie among the teachers, in a folder named by the fingerprint of all that they
    depend on.

    Args:
      run: the run.
      name: what the log calls them.
      learning: what they learn, and how.
      seeds: of their first weights and their play; there is a network for each of them
        and each learning rate.
    """
    grid = list(itertools.product(learning.dqn.learning_rates, seeds))
    about, game = _about(learning, grid), learning.game.name
    kind = type(learning.module).__name__.lower()
    folder = run.teachers / f"{game}-{kind}-{digest(about)}"
    folder.mkdir(parents=True, exist_ok=True)
    lock, place = Lock(folder), folder / "variables"
    if run.options.plan:
        zeros = jax.tree.map(
            lambda x: np.zeros(x.shape, x.dtype), _abstract(learning, len(grid))
        )
        return _chosen(zeros, grid)
    _teacher.wait(run, lock)
    try:
        like = _abstract(learning, len(grid))
        found = checkpoint.load_variables(place, like, say=run.say)
        if found and found[1] == about:
            run.say(f"{name}: reused from {folder} (same network, game and settings).")
            run.advance(learning.dqn.rounds * len(grid), name)
            best = found[0]
        else:
            best = processes.shared(_trained(run, name, learning, grid))
            checkpoint.save_variables(place, best, about)
    finally:
        lock.release()
    return _chosen(best, grid)


def _about(learning: Learning, grid: Grid) -> dict[str, Any]:
    """Return all that the networks depend on, as JSON values."""
    about = {
        "environment": learning.game.name,
        "gymnax": metadata.version("gymnax"),
        "network": repr(learning.module),
        "dqn": dataclasses.asdict(learning.dqn),
        "rates and seeds": grid,
        "episodes": [EPISODES, SEEDS["validation"]],
        "kdjax": kdjax.__version__,
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }
    return json.loads(json.dumps(about))


def _abstract(learning: Learning, number: int) -> dict[str, Any]:
    """Return shapes and dtypes of what is kept of this many networks."""
    seeds = jax.ShapeDtypeStruct((number,), jnp.uint32)
    params = jax.eval_shape(jax.vmap(learning.first), seeds)
    return {"params": params, "returns": jax.ShapeDtypeStruct((number,), jnp.float32)}


def _chosen(best: dict[str, Any], grid: Grid) -> Learned:
    """Return the networks of the learning rate with the best mean over the seeds."""
    rates = dict.fromkeys(rate for rate, _ in grid)
    returns = np.asarray(best["returns"]).reshape(len(rates), -1)
    rate = list(rates)[int(returns.mean(1).argmax())]
    made = zip(grid, trees.unstack(best["params"]), returns.ravel(), strict=True)
    chosen = [(seed, x, value) for (of, seed), x, value in made if of == rate]
    networks = {seed: {"params": params} for seed, params, _ in chosen}
    return Learned(networks, {seed: float(value) for seed, _, value in chosen}, rate)


def _trained(run: Run, name: str, learning: Learning, grid: Grid) -> dict[str, Any]:
    """Train all networks at once; return each one's best parameters."""
    part = learning.dqn.rounds // LOOKS
    options = {"static_argnums": 2, "donate_argnums": 0}
    go_on = _compiled(learning.go_on, learning.dqn.rounds, **options)
    start = _compiled(jax.vmap(learning.start), 1)
    rates, seeds = zip(*grid, strict=True)
    states = start(np.array(seeds, np.uint32), np.array(rates, np.float32))
    looks: list[list[float]] = []
    best: list[Any] = [None] * len(grid)
    for number in range(LOOKS):
        states = go_on(states, number * part, part)
        found = trees.unstack(jax.device_get(states.target))
        earned = [learning.earned(params) for params in found]
        for row, value in enumerate(earned):
            if all(value >= look[row] for look in looks):  # of equals the last
                best[row] = found[row]
        looks.append(earned)
        run.advance(part * len(grid), name)
    _log(run, name, learning, grid, np.array(looks))
    return {"params": trees.stack(best), "returns": np.max(looks, 0).astype(np.float32)}


def _log(
    run: Run, name: str, learning: Learning, grid: Grid, looks: np.ndarray
) -> None:
    every = learning.dqn.rounds // LOOKS * learning.dqn.copies
    for (rate, seed), curve in zip(grid, looks.T, strict=True):
        label, _ = place_of(run, name, rate, seed)
        run.log.rewind(label, 0)  # what a start that was stopped has written
        for number, value in enumerate(curve, start=1):
            figures = {"validation_mean_return": float(value)}
            run.log.write(label, number * every, figures)


def _compiled(function: Any, rounds: int, **options: Any) -> Any:
    """Return a compiled function; a CPU compiles it for longer than it runs else."""
    if jax.default_backend() == "cpu":
        short = rounds < 1000
        options["compiler_options"] = {
            "xla_backend_optimization_level": 0 if short else 1,
            "xla_cpu_use_fusion_emitters": not short,
        }
    return jax.jit(function, **options)
