"""Games of gymnax, and what networks earn in them: all of it in compiled programs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Network, Variables

EPISODES = 100
"""Episodes that a mean return is of."""
SEEDS = {"validation": 1_100_001, "test": 1_100_004, "record": 1_100_003}
"""Part of what results mean: which episodes choose, and which the figures are of."""
COPIES = {"train": 100, "validation": 10, "test": 10}
"""How many copies of a game are recorded for each split."""
_DOWNLOADS = ("MNISTBandit-bsuite",)  # when it is made, so it is not looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """An environment of gymnax, with observations that networks can read.

    Attributes:
      name: gymnax's, without slashes.
      environment: itself.
      params: its constants.
      stretch: what observations are multiplied with. What is bounded by less than 1 is
        stretched to [-1, 1], so that a small angle is no small number.
    """

    name: str
    environment: Any
    params: Any
    stretch: np.ndarray

    @property
    def actions(self) -> int:
        """How many actions there are."""
        return self.environment.action_space(self.params).n

    @property
    def example(self) -> jax.Array:
        """A batch of one observation."""
        return jnp.zeros((1, len(self.stretch)))

    def start(self, keys: jax.Array) -> tuple[jax.Array, Any]:
        """Begin an episode for each key; return observations and states."""
        environment = self.environment
        observed, state = jax.vmap(environment.reset, (0, None))(keys, self.params)
        return self._seen(observed), state

    def step(self, keys: jax.Array, state: Any, action: jax.Array) -> "Moved":
        """Take an action in each; where an episode ends, the next one begins."""
        step = jax.vmap(self.environment.step, (0, 0, 0, None))
        observed, state, reward, terminated, truncated, info = step(
            keys, state, action, self.params
        )
        return Moved(
            self._seen(observed),
            state,
            reward.astype(jnp.float32),
            self._seen(info["final_observation"]),
            terminated,
            terminated | truncated,
        )

    def move(self, keys: jax.Array, state: Any, action: jax.Array) -> Any:
        """Take an action in each, and begin nothing where an episode ends.

        Returns:
          Observations, states, rewards, and whether the episode ended.
        """
        environment, params = self.environment, self.params
        step = jax.vmap(environment.step_env, (0, 0, 0, None))
        observed, state, reward, terminated, _ = step(keys, state, action, params)
        late = jax.vmap(environment.is_truncated, (0, None))(state, params)
        return self._seen(observed), state, reward, terminated | late

    def _seen(self, observed: jax.Array) -> jax.Array:
        return observed.astype(jnp.float32) * self.stretch[None]


class Moved(NamedTuple):
    """What an action led to, in each of several copies of a game.

    Attributes:
      observation: `[copies, size]`; where an episode ended, of the next one.
      state: of the environment.
      reward: `[copies]`.
      reached: `[copies, size]`, the observation that the action itself led to.
      terminated: `[copies]`, whether nothing comes after it.
      done: `[copies]`, whether the episode ended, be it that its time was up.
    """

    observation: jax.Array
    state: Any
    reward: jax.Array
    reached: jax.Array
    terminated: jax.Array
    done: jax.Array


@functools.cache  # of one name the same, so that its programs are compiled once
def make(name: str) -> Game:
    """Return the game of this name.

    Raises:
      ImportError: if gymnax is not installed.
      ValueError: if there is none, or if it is of another kind; it lists those of the
        right kind.
    """
    try:
        import gymnax
    except ImportError as error:
        raise ImportError(
            "policy: the environments are those of gymnax, which is not installed; "
            "pip install 'kdjax[experiments]'"
        ) from error
    known = [other for other in gymnax.registered_envs if other not in _DOWNLOADS]
    environment, params = gymnax.make(name) if name in known else (None, None)
    if environment is None or not _fits(environment, params):
        fitting = [other for other in known if _fits(*gymnax.make(other))]
        raise ValueError(
            "config: environments must be of gymnax and have numbered actions and flat "
            f"observations, got {name!r}; those that fit are {', '.join(fitting)}"
        )
    space = environment.observation_space(params)
    ends = [np.asarray(end, np.float32) for end in (space.low, space.high)]
    bound = np.broadcast_to(np.abs(ends).max(0), space.shape)
    small = (bound > 0) & (bound < 1)
    stretch = 1 / np.where(small, bound, np.float32(1))
    return Game(name.replace("/", "-"), environment, params, stretch)


def _fits(environment: Any, params: Any) -> bool:
    """Whether actions are numbers of a list, and observations rows of numbers."""
    observed = environment.observation_space(params)
    numbered = hasattr(environment.action_space(params), "n")
    return numbered and hasattr(observed, "high") and len(observed.shape) == 1


@functools.cache
def _played(game: Game, network: Network) -> Callable[..., jax.Array]:
    def played(variables: Variables, seed: Any) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), EPISODES)
        observation, state = game.start(keys)

        def step(carry: Any) -> Any:
            time, observation, state, playing, earned = carry
            action = network.apply(variables, observation)[0].logits.argmax(1)
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, time)
            observation, state, reward, done = game.move(now, state, action)
            earned += playing * reward
            return time + 1, observation, state, playing & ~done, earned

        start = (0, observation, state, jnp.ones(EPISODES, bool), jnp.zeros(EPISODES))
        return jax.lax.while_loop(lambda carry: carry[3].any(), step, start)[4]

    return jax.jit(played)


def returns(
    game: Game, network: Network, variables: Variables, split: str
) -> np.ndarray:
    """Return what a network earns that does what it prefers, `[EPISODES]`.

    A split's episodes are always the same. Each counts from its start to its end.
    """
    return np.asarray(_played(game, network)(variables, SEEDS[split]))


def record(
    game: Game,
    network: Network,
    variables: Variables,
    steps: int,
    random_actions: float,
) -> dict[str, dict[str, np.ndarray]]:
    """Return the states that a Q-network visits, with what it thinks of them.

    It plays greedily, but for some random actions. Copies of the game are of one split
    each, so that no episode is in two.

    Returns:
      For "train", "validation" and "test": `observation` `[n, size]`, the Q-values `q`
      `[n, actions]` and the best `action` `[n]`; n is `steps` times the split's number
      of copies.
    """
    copies, key = sum(COPIES.values()), jax.random.key(SEEDS["record"])

    @jax.jit
    def played(variables: Variables) -> dict[str, jax.Array]:
        def step(carry: Any, now: jax.Array) -> Any:
            observation, state = carry
            which, what, moves = jax.random.split(jax.random.fold_in(key, now), 3)
            q = network.apply(variables, observation)[0].logits
            best = q.argmax(1).astype(jnp.int32)
            other = jax.random.randint(what, (copies,), 0, game.actions)
            random = jax.random.uniform(which, (copies,)) < random_actions
            keys = jax.random.split(moves, copies)
            moved = game.step(keys, state, jnp.where(random, other, best))
            seen = {"observation": observation, "q": q, "action": best}
            return (moved.observation, moved.state), seen

        start = game.start(jax.random.split(key, copies))
        return jax.lax.scan(step, start, jnp.arange(steps))[1]

    seen = jax.tree.map(np.asarray, played(variables))
    ends = np.cumsum(list(COPIES.values()))[:-1]
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in COPIES}
    for field, rows in seen.items():
        for name, part in zip(COPIES, np.split(rows, ends, axis=1), strict=True):
            parts[name][field] = part.reshape(-1, *part.shape[2:])
    return parts
