"""What is trained, and how."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import jax
import optax

from experiments._model import Model
from kdjax import data, networks, teachers
from kdjax.base import Network, Variables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int
    batch_size: int
    augment: tuple[str, ...] = ()
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "cosine"
    accumulate: int = 1

    def transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        """Return the optimizer; its learning rate falls by the schedule.

        The learning rate is part of its state, so that one compiled step serves a whole
        grid of them.
        """
        falling = _SCHEDULES[self.schedule](self.steps)

        def make(peak: Any) -> optax.GradientTransformation:
            def schedule(count: Any) -> Any:
                return peak * falling(count)

            if self.optimizer == "adam":
                return optax.adamw(schedule, weight_decay=self.weight_decay)
            momentum = optax.sgd(schedule, momentum=0.9)
            return optax.chain(optax.add_decayed_weights(self.weight_decay), momentum)

        return optax.inject_hyperparams(make)(peak=learning_rate)

    @property
    def augmentations(self) -> list[Any]:
        """The random changes of the training images, in their order."""
        return [_AUGMENTATIONS[name] for name in self.augment]


def _stairs(steps: int) -> Any:
    """A tenth after 150, 180 and 210 of 240 epochs, whatever their number here."""
    at = {round(steps * epoch / 240): 0.1 for epoch in (150, 180, 210)}
    return optax.piecewise_constant_schedule(1.0, at)


_SCHEDULES: dict[str, Callable[[int], Any]] = {
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "stairs": _stairs,
}
_AUGMENTATIONS = {
    "shift": partial(data.random_shift, pixels=1),
    "jitter": partial(data.random_shift, pixels=2),
    "crop": partial(data.random_crop, padding=4),
    "flip": data.random_flip,
}


@dataclasses.dataclass(frozen=True)
class Learner:
    """What is trained, and what of it is used in the end.

    Attributes:
      network: what is trained.
      exported: what is measured, and used in the end.
      export: takes the variables of the one to those of the other.
      start: `start(seed) -> variables` before the first step; None draws them.
      trains: of each parameter's path, whether it is trained; None trains all.
      around: makes an optimizer of the recipe's, such as one that prunes.
      past: what the training state keeps of the network's own past.
      steps_per_call: training steps in one compiled call.
      sample: what makes a step's batch of the student as it is, as `train.on_policy`
        takes it; None trains on the data.
    """

    network: Network
    exported: Network
    export: Callable[[Variables], Variables] = lambda variables: variables
    start: Callable[[int], Variables] | None = None
    trains: Callable[[str], bool] | None = None
    around: Callable[[Any], Any] = lambda tx: tx
    past: teachers.Past | None = None
    steps_per_call: int = 1
    sample: Callable[..., Any] | None = None

    def drawn(self, example: Any, number: int) -> Self:
        """Return it with other random weights to start from than a seed gives."""

        def start(seed: int) -> Variables:
            key = jax.random.fold_in(jax.random.key(seed), number)
            return self.network.init(key, example)

        return dataclasses.replace(self, start=start)

    def with_parts(
        self,
        parts: Mapping[str, Any],
        teacher: Network | None = None,
        keep: bool = False,
    ) -> Self:
        """Return it with learned parts beside it; `keep` exports them, too."""
        whole = networks.with_parts(self.network, parts, teacher=teacher)
        if keep:
            return dataclasses.replace(self, network=whole, exported=whole)
        return dataclasses.replace(self, network=whole, export=networks.without_parts)


def alone(model: Model, classes: int) -> Learner:
    """Return a model as it is, with nothing beside it."""
    network = model.build(classes)
    return Learner(network, network, steps_per_call=model.steps_per_call)
