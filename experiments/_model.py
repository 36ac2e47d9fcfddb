"""Which network, as flags."""

import dataclasses
import functools
from typing import Any, Literal, Self

from kdjax import networks
from kdjax.base import Network
from kdjax.models import MLP, ResNet


@functools.cache  # few, and one network is one compiled program
def network(module: Any) -> Network:
    """Return the network of a module: of equal modules the same."""
    return networks.from_linen(module)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network for images."""

    model: Literal["mlp", "resnet"] = "mlp"
    """An MLP, or a ResNet of the CIFAR family."""
    width: int | None = None
    """Units of a hidden layer (MLP), or how many times 16 channels (ResNet)."""
    depth: int | None = None
    """Hidden layers (MLP), or layers in all: 6n + 2 (ResNet)."""
    dropout: float = 0.0
    """Part of the hidden units dropped in training (MLP)."""

    def sized(self, mlp: tuple[int, int], resnet: tuple[int, int]) -> Self:
        """Return it with a `(width, depth)` for what was left open."""
        width, depth = mlp if self.model == "mlp" else resnet
        open_ = {"width": width, "depth": depth}
        missing = {name: x for name, x in open_.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def module(self, classes: int) -> MLP | ResNet:
        """Return the Linen module."""
        assert self.width is not None
        assert self.depth is not None
        if self.model == "resnet":
            return ResNet(classes, self.depth, self.width)
        return MLP(classes, self.width, self.depth, dropout=self.dropout)

    def build(self, classes: int) -> Network:
        """Return the network: for the same model the same."""
        return network(self.module(classes))

    @property
    def last(self) -> str:
        """The feature that the head reads."""
        return "pooled" if self.model == "resnet" else f"hidden{self.depth}"

    @property
    def steps_per_call(self) -> int:
        """Steps in one compiled call: those of an MLP cost less than calling."""
        return 25 if self.model == "mlp" else 1
