"""Does a small network play better if it copies a player than if it learns to play?

Rusu et al., "Policy Distillation" (2016, https://arxiv.org/abs/1511.06295): a Q-network
that learned a game from its rewards shows how it plays. Students learn from the states
it visits: by the KL from its sharpened Q-values, by its actions (NLL, behaviour
cloning) or by its Q-values. The student alone learns from rewards, as the teacher did
and with as many steps in the environment. The multi-task student learns all games from
their teachers. The environments are gymnax's (https://github.com/RobertTLange/gymnax)
and run inside of the compiled programs.

python -m experiments.policy            # 4 minutes on 2 cores
python -m experiments.policy --smoke    # seconds
python -m experiments.policy --environments Acrobot-v1 --shrink 40 --temperature 1
"""

import dataclasses
from typing import Literal, Self

from experiments import _config, _dqn, _games, _players, _policy, _run
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.Budget):
    """Games, their teachers and students."""

    dataset: Literal["gymnax"] = "gymnax"
    """Whose environments."""
    environments: tuple[str, ...] = ("CartPole-v1", "Acrobot-v1")
    """With numbered actions and flat observations. Several get multi-task students."""
    seeds: tuple[int, ...] = (5,)
    steps: int = 2000
    batch_size: int = 256
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    dqn: _dqn.DQN = _dqn.DEFAULT
    teacher_width: int = 64
    """Units in each of a teacher's hidden layers."""
    tries: int = 3
    """Teachers that are trained for a game; the best on validation episodes teaches."""
    replay: int = 50_000
    """States of a teacher's play that students learn from."""
    shrink: tuple[float, ...] = (4, 15)
    """How many times fewer parameters students have than their teacher, at least."""
    temperature: float = 0.01
    """What Q-values are divided by, for the KL."""

    def checked(self) -> Self:
        """Return it. Raises ValueError for a number that cannot be."""
        for name in ("teacher_width", "tries", "replay"):
            checks.integer("config", 1, **{name: getattr(self, name)})
        for factor in self.shrink:
            checks.positive("config", shrink=factor, temperature=self.temperature)
        _config.distinct(environments=self.environments, shrink=self.shrink)
        for name in self.environments:
            _games.make(name)
        return dataclasses.replace(super().checked(), dqn=self.dqn.checked())


SMALL = {"steps": 50, "batch_size": 32, "seeds": (2,), "learning_rates": (1e-3,)}
NETS = {"teacher_width": 16, "tries": 2, "shrink": (4,), "replay": 400}
GAMES = {"environments": ("CartPole-v1", "MountainCar-v0"), "dqn": _dqn.SMALL}
SMOKE = Config(**SMALL, **NETS, **GAMES)


def main(config: Config) -> report.Result:
    """Train teachers and students; return the table."""
    config = config.checked()
    kl = _policy.kl(config.temperature)
    with _run.Run("policy", config) as run:
        games = _players.Games(run, config)
        for part, ratio in games.each():
            part.alone(ratio)
            for how, loss in (("KL", kl), ("NLL", _policy.nll), ("Q", _policy.q)):
                part.students(ratio, how, loss)
        games.multitask(kl)
        return run.finish(games.table("Policy distillation"))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
