"""Networks that act: a dueling Q-network, and one that plays several games."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs

ABSENT = -1e9
"""The logit of an action that a game does not have: its probability is 0."""


def _flat(name: str, observation: Array) -> Array:
    checks.floating(name, observation=observation)
    if observation.ndim == 0:
        raise ValueError(f"{name}: observations must be [batch, ...], got a scalar")
    return observation.reshape(len(observation), math.prod(observation.shape[1:]))


def _trunk(x: Array, width: int, depth: int) -> dict[str, Array]:
    """Return ReLU layers by name, from within a compact method."""
    features = {}
    for layer in range(1, depth + 1):
        x = nn.relu(nn.Dense(width, name=f"dense{layer}")(x))
        features[f"hidden{layer}"] = x
    return features


class Dueling(nn.Module):
    """A Q-network that says how good a state is, and how much better each action.

    `Q(s, a) = V(s) + A(s, a) − mean_b A(s, b)`: hidden ReLU layers that both streams
    share, then one more in each stream and its linear head.

    Args:
      actions: number of actions.
      width: number of units in each hidden layer.
      depth: number of shared hidden layers; with 0 the streams share nothing.

    Call:
      `[batch, ...]` floating observations, flattened, and `train`, which changes
      nothing, give Q-values as logits `[batch, actions]` and the features `hidden1`,
      ... `[batch, width]`, `value` `[batch]` (V) and `advantage` `[batch, actions]`
      (A less its mean).

    Raises:
      ValueError: if a size is not positive (`depth` may be 0), or the observations are
        not floating or have no batch axis.

    Source: Wang et al., "Dueling Network Architectures for Deep Reinforcement
    Learning", https://arxiv.org/abs/1511.06581 (2016).

    >>> init = Dueling(actions=3, width=32).init_with_output
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.ones((2, 6)))
    >>> outputs.logits.shape, outputs.features["value"].shape
    ((2, 3), (2,))
    """

    actions: int
    width: int
    depth: int = 1

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        checks.positive("Dueling", actions=self.actions, width=self.width)
        checks.integer("Dueling", 0, depth=self.depth)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return Q-values, the hidden layers, value and advantage."""
        x = _flat("Dueling", inputs)
        features = _trunk(x, self.width, self.depth)
        shared = features.get(f"hidden{self.depth}", x)

        def stream(name: str, size: int) -> Array:
            hidden = nn.relu(nn.Dense(self.width, name=name)(shared))
            return nn.Dense(size, name=f"{name}_head")(hidden)

        value, raw = stream("value", 1), stream("advantage", self.actions)
        advantage = raw - raw.mean(axis=1, keepdims=True)
        features |= {"value": value[:, 0], "advantage": advantage}
        return Outputs(value + advantage, features)


class MultiTask(nn.Module):
    """One network that plays several games: shared hidden layers, a head for each.

    The trunk reads the observation and which game it is of; the game's own linear head
    reads the trunk.

    Args:
      actions: each game's number of actions.
      width: number of units in each hidden layer.
      depth: number of hidden layers, at least 1.

    Call:
      A pair of floating observations `[batch, ...]`, of all games padded to one shape,
      and integer game numbers `[batch]`, with `train`, which changes nothing, gives
      logits `[batch, most]`, `most` the largest number of actions, and the features
      `hidden1`, ... `[batch, width]`. Actions that a game does not have get the logit
      `ABSENT`. A number that is no game's gets `ABSENT` everywhere.

    Raises:
      ValueError: if there is no game, a size is not positive, the observations are not
        floating or have no batch axis, or the game numbers are not integers `[batch]`.

    Source: Rusu et al., "Policy Distillation", https://arxiv.org/abs/1511.06295 (2016).

    >>> init = MultiTask(actions=(2, 3), width=32).init_with_output
    >>> inputs = jnp.ones((4, 6)), jnp.array([0, 1, 1, 0])
    >>> outputs, _ = jax.eval_shape(init, jax.random.key(0), inputs)
    >>> outputs.logits.shape
    (4, 3)
    """

    actions: tuple[int, ...]
    width: int
    depth: int = 2

    def __post_init__(self) -> None:
        """Check the sizes before anything is built."""
        if not self.actions:
            raise ValueError("MultiTask: actions must be one number a game, got none")
        for number in self.actions:
            checks.positive("MultiTask", actions=number)
        checks.positive("MultiTask", width=self.width, depth=self.depth)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: tuple[Array, Array], train: bool = False) -> Outputs:
        """Return the logits of each row's own game, and the hidden layers."""
        observation, game = inputs
        x = _flat("MultiTask", observation)
        checks.labels("MultiTask", game, x)
        told = jax.nn.one_hot(game, len(self.actions), dtype=x.dtype)
        features = _trunk(jnp.concatenate([x, told], 1), self.width, self.depth)

        last, most = features[f"hidden{self.depth}"], max(self.actions)
        logits = jnp.full((len(x), most), ABSENT, last.dtype)
        for number, actions in enumerate(self.actions):
            head = nn.Dense(actions, name=f"head{number}")(last)
            rest = ((0, 0), (0, most - actions))
            padded = jnp.pad(head, rest, constant_values=ABSENT)
            logits = jnp.where((game == number)[:, None], padded, logits)
        return Outputs(logits, features)
