"""Networks that learn a game from its rewards alone: deep Q-learning.

Mnih et al. (2015, https://doi.org/10.1038/nature14236), with a target network that
follows slowly, double Q-learning (van Hasselt et al. 2016,
https://arxiv.org/abs/1509.06461) and returns of several steps (Hessel et al. 2018,
https://arxiv.org/abs/1710.02298). Copies of the game, the replay and the gradient steps
are one compiled program, for all seeds at once.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments import _games
from experiments._config import distinct
from experiments._games import Game
from experiments._model import network
from kdjax import checks
from kdjax.base import Network

LOOKS = 10
"""How often networks in training are tried."""


@dataclasses.dataclass(frozen=True)
class DQN:
    """Deep Q-learning."""

    steps: int = 60_000
    """Steps in the environment, in all its copies together."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    """Of Adam, at first; they fall linearly to 0. The best on validation counts."""
    batch_size: int = 64
    """Transitions in a gradient step."""
    copies: int = 8
    """Games played side by side; one gradient step follows a step of all of them."""
    discount: float = 0.99
    """What a reward is worth one step later."""
    lookahead: int = 10
    """Rewards that are summed before Q-values stand for those that follow."""
    tracking: float = 0.01
    """Part of the way that the target network, which is used in the end, goes towards
    the one in training at each gradient step."""
    exploration: float = 0.5
    """Part of the training over which random actions fall from all to few."""
    random_actions: float = 0.05
    """Part of the actions that stay random."""

    def checked(self) -> Self:
        """Return it.

        Raises:
          ValueError: for a number that cannot be.
        """
        distinct(dqn_learning_rates=self.learning_rates)
        for rate in self.learning_rates:
            checks.positive("dqn", learning_rates=rate)
        for name in ("batch_size", "copies", "lookahead"):
            checks.integer("dqn", 1, **{name: getattr(self, name)})
        least = LOOKS * self.copies * self.lookahead
        checks.integer("dqn", least, steps=self.steps)
        for name in ("discount", "tracking", "exploration", "random_actions"):
            checks.fraction("dqn", **{name: getattr(self, name)})
        return self

    @property
    def rounds(self) -> int:
        """How often all copies make a step: in equal parts between two looks."""
        return self.steps // self.copies // LOOKS * LOOKS

    @property
    def waits(self) -> int:
        """How many rounds go by before the first gradient step."""
        return max(self.rounds // 50, self.lookahead)


DEFAULT = DQN()
SMALL = DQN(steps=160, learning_rates=(1e-3,), copies=4, lookahead=3)


class State(NamedTuple):
    """A network in training, the games that it plays and all that happened in them."""

    params: Any
    target: Any
    opt_state: Any
    observation: jax.Array
    state: Any
    replay: dict[str, jax.Array]
    key: jax.Array
    rate: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Learning:
    """How one network learns one game, as pure functions.

    Attributes:
      game: what it learns.
      module: of the network.
      dqn: how.
    """

    game: Game
    module: nn.Module
    dqn: DQN

    @property
    def network(self) -> Network:
        """The network."""
        return network(self.module)

    @functools.cached_property
    def _tx(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(10.0), optax.scale_by_adam())

    def _q(self, params: Any, observation: jax.Array) -> jax.Array:
        return self.network.apply({"params": params}, observation)[0].logits

    def first(self, seed: Any) -> Any:
        """Return the parameters that a seed begins with."""
        return self.network.init(jax.random.key(seed), self.game.example)["params"]

    def start(self, seed: Any, rate: Any) -> State:
        """Return what a seed and a learning rate begin with."""
        game, dqn, params = self.game, self.dqn, self.first(seed)
        begin, go_on = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        observation, state = game.start(jax.random.split(begin, dqn.copies))
        # All that happens is kept: a row for each round.
        shape = (dqn.rounds, dqn.copies)
        seen = jnp.zeros((*shape, observation.shape[1]))
        replay = {
            "observation": seen,
            "action": jnp.zeros(shape, jnp.int32),
            "reward": jnp.zeros(shape),
            "reached": seen,
            "terminated": jnp.zeros(shape, bool),
            "done": jnp.zeros(shape, bool),
        }
        learner = (params, params, self._tx.init(params))
        return State(*learner, observation, state, replay, go_on, rate)

    def step(self, learner: State, number: Any) -> State:
        """Play one round, keep what happened, and make one gradient step."""
        key, playing, drawing = jax.random.split(learner.key, 3)
        happened, observation, state = self._played(learner, number, playing)
        replay = {
            name: jax.lax.dynamic_update_index_in_dim(rows, happened[name], number, 0)
            for name, rows in learner.replay.items()
        }
        batch = self._drawn(replay, number, drawing)
        gradient = jax.grad(self._loss)(learner.params, learner.target, batch)
        update, opt_state = self._tx.update(gradient, learner.opt_state, learner.params)
        rate = learner.rate * (1 - number / self.dqn.rounds)
        update = jax.tree.map(lambda x: -rate * x, update)
        params = optax.apply_updates(learner.params, update)
        target = optax.incremental_update(params, learner.target, self.dqn.tracking)
        # at first too little has happened to learn from
        learns = number >= self.dqn.waits
        old = (learner.params, learner.target, learner.opt_state)
        new = (params, target, opt_state)
        new = jax.tree.map(lambda a, b: jnp.where(learns, a, b), new, old)
        return State(*new, observation, state, replay, key, learner.rate)

    def _played(self, learner: State, number: Any, key: jax.Array) -> Any:
        dqn, observation = self.dqn, learner.observation
        over = max(dqn.exploration * dqn.rounds, 1)
        random = jnp.maximum(1 - number / over, dqn.random_actions)
        key, moves = jax.random.split(key)
        which, what = jax.random.uniform(key, (2, dqn.copies))
        best = self._q(learner.params, observation).argmax(1)
        other = (what * self.game.actions).astype(int)
        action = jnp.where(which < random, other, best)
        keys = jax.random.split(moves, dqn.copies)
        moved = self.game.step(keys, learner.state, action)
        happened = {**moved._asdict(), "observation": observation, "action": action}
        return happened, moved.observation, moved.state

    def _drawn(self, replay: Any, number: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Draw where to start, and sum the rewards from there on, within an episode."""
        dqn = self.dqn
        starts = jnp.maximum(number + 2 - dqn.lookahead, 1)
        when, where = jax.random.uniform(key, (2, dqn.batch_size))
        first = jnp.minimum((when * starts).astype(int), starts - 1)
        copy = (where * dqn.copies).astype(int)
        ahead = jnp.arange(dqn.lookahead)[None]
        rows = first[:, None] + ahead
        reward, done = (replay[x][rows, copy[:, None]] for x in ("reward", "done"))
        ended = jnp.cumsum(done, axis=1) - done > 0  # before this reward
        total = jnp.where(ended, 0.0, reward * dqn.discount**ahead).sum(1)
        length = (~ended).sum(1)
        last = first + length - 1
        goes_on = ~replay["terminated"][last, copy]
        return {
            "observation": replay["observation"][first, copy],
            "action": replay["action"][first, copy],
            "total": total,
            "reached": replay["reached"][last, copy],
            "worth": goes_on * dqn.discount ** length.astype(float),
        }

    def _loss(self, params: Any, target: Any, batch: Any) -> jax.Array:
        """Return the squared error; the one network chooses, the other one judges."""
        rows = jnp.arange(self.dqn.batch_size)
        chosen = self._q(params, batch["reached"]).argmax(1)
        after = self._q(target, batch["reached"])[rows, chosen]
        wanted = batch["total"] + batch["worth"] * after
        said = self._q(params, batch["observation"])[rows, batch["action"]]
        return jnp.square(said - wanted).mean()

    def earned(self, params: Any) -> float:
        """Return the mean return on the validation episodes."""
        variables = {"params": params}
        earned = _games.returns(self.game, self.network, variables, "validation")
        return float(earned.mean())

    def go_on(self, states: State, first: Any, number: int) -> State:
        """Return the states after some rounds, of all seeds at once."""

        def one(state: State) -> State:
            now = first + jnp.arange(number)
            return jax.lax.scan(lambda s, n: (self.step(s, n), None), state, now)[0]

        return jax.vmap(one)(states)
