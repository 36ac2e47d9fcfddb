"""Teachers that play games, what they show, and the students that learn from it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _games
from experiments._dqn import Learning
from experiments._games import EPISODES, Game
from experiments._learned import learned
from experiments._problem import Arrays, Figures, Problem
from experiments._workdir import Run
from kdjax import losses, models, trees
from kdjax.base import Batch, Network, Outputs, Variables
from kdjax.models.policy import ABSENT
from kdjax.objectives import Objective


@dataclasses.dataclass(frozen=True, eq=False)
class Taught:
    """A game, who teaches it, and what the teacher showed.

    Attributes:
      game: itself.
      network: the teacher's.
      variables: the teacher's.
      shown: by split, the states that it visited, its Q-values and its actions.
    """

    game: Game
    network: Network
    variables: Variables
    shown: Mapping[str, Arrays]

    def tried(self, network: Network, variables: Variables, split: str) -> Figures:
        """Return what a network earns, and how often it would do as the teacher."""
        earned = _games.returns(self.game, network, variables, split)
        shown = self.shown[split]
        agrees = _agreement(network)(variables, shown["observation"], shown["action"])
        return {
            "mean_return": float(earned.mean()),
            "return_deviation": float(earned.std(ddof=1)),
            "agreement": float(agrees),
        }

    def problem(self) -> Problem:
        """Return what students of this teacher learn."""
        return Problem(
            self.game.name,
            **self.shown,
            splits=_splits(self.shown),
            example=self.game.example,
            inputs="observation",
            figure="mean_return",
            tried=self.tried,
        )


@functools.cache
def _agreement(network: Network) -> Callable[..., jax.Array]:
    def agreement(variables: Variables, observation: Any, action: Any) -> jax.Array:
        outputs, _ = network.apply(variables, observation)
        return (outputs.logits.argmax(1) == action).mean()

    return jax.jit(agreement)


def _splits(shown: Mapping[str, Arrays]) -> str:
    sizes = [f"{name} {len(part['action']):,}" for name, part in shown.items()]
    return (
        f"states of the teacher's play, no episode in two splits: {', '.join(sizes)}; "
        f"returns are means over {EPISODES} episodes, the same for all networks, but "
        "others for validation than for test."
    )


def taught(run: Run, config: Any, name: str) -> Taught:
    """Return a game with its teacher: of several tries the best on validation."""
    game, called, tries = _games.make(name), f"{name} teacher", range(config.tries)
    learning = Learning(
        game, models.Dueling(game.actions, config.teacher_width), config.dqn
    )
    run.say(f"{called}: {config.dqn.steps:,} steps in the environment.")
    found = learned(run, called, learning, tries)
    variables = found.best
    run.pin(called, trees.fingerprint(variables["params"]))
    told = ", ".join(f"{value:.1f}" for value in found.returns.values())
    run.say(f"{called}: mean returns on validation {told}; the best one teaches.")
    shown = _games.record(
        game,
        learning.network,
        variables,
        steps=math.ceil(config.replay / _games.COPIES["train"]),
        random_actions=config.dqn.random_actions,
    )
    return Taught(game, learning.network, variables, shown)


def kl(temperature: float) -> Objective:
    """Return the KL from the teacher's sharpened Q-values."""

    def objective(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
        loss = losses.policy_kl(student.logits, batch["q"], temperature=temperature)
        return {"kl": loss.mean()}

    return objective


def nll(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn the teacher's actions: behaviour cloning."""
    return {"nll": losses.policy_nll(student.logits, batch["action"]).mean()}


def q(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn the teacher's Q-values."""
    return {"q": losses.q_regression(student.logits, batch["q"]).mean()}


def _both(batch: Batch) -> Any:
    return batch["observation"], batch["game"]


def together(teachers: Sequence[Taught]) -> Problem:
    """Return what one student of all teachers learns: rows padded to one width."""
    width = max(len(one.game.stretch) for one in teachers)
    most = max(one.game.actions for one in teachers)

    def padded(array: np.ndarray, size: int, value: float) -> np.ndarray:
        rest = ((0, 0), (0, size - array.shape[1]))
        return np.pad(array, rest, constant_values=value)

    def split(name: str) -> Arrays:
        parts: dict[str, list[np.ndarray]] = {"observation": [], "q": [], "game": []}
        for number, one in enumerate(teachers):
            shown = one.shown[name]
            parts["observation"].append(padded(shown["observation"], width, 0))
            parts["q"].append(padded(shown["q"], most, ABSENT))
            parts["game"].append(np.full(len(shown["q"]), number, np.int32))
        return {field: np.concatenate(arrays) for field, arrays in parts.items()}

    def tried(network: Network, variables: Variables, split: str) -> Figures:
        found = [
            one.tried(seat(network, number, width), variables, split)
            for number, one in enumerate(teachers)
        ]
        return {name: float(np.mean([x[name] for x in found])) for name in found[0]}

    return Problem(
        " and ".join(one.game.name for one in teachers),
        split("train"),
        split("validation"),
        split("test"),
        splits=_splits(teachers[0].shown).replace("the teacher's", "each teacher's"),
        example=(jnp.zeros((1, width)), jnp.zeros(1, jnp.int32)),
        inputs=_both,
        figure="mean_return",
        tried=tried,
    )


@functools.cache
def seat(network: Network, number: int, width: int) -> Network:
    """Return a network of several games as one that plays one of them."""

    def seen(observation: jax.Array) -> Any:
        rest = ((0, 0), (0, width - observation.shape[1]))
        return jnp.pad(observation, rest), jnp.full(len(observation), number)

    def init(key: Any, observation: jax.Array) -> Variables:
        return network.init(key, seen(observation))

    def apply(variables: Variables, observation: jax.Array, **settings: Any) -> Any:
        return network.apply(variables, seen(observation), **settings)

    return Network(init, apply)
