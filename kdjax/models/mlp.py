"""The multi-layer perceptron."""

import math
from collections.abc import Mapping

from flax import core
from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.base import Outputs
from kdjax.models._narrow import Narrowable
from kdjax.units import Place, Units


class MLP(Narrowable, nn.Module):
    """Flatten the input, then `depth` hidden ReLU layers and a linear head.

    With `width=1200` and dropout it is the teacher, with `width=800` and none the
    student of the MNIST experiment of Hinton, Vinyals and Dean, "Distilling the
    Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531 (2015).

    Args:
      classes: number of logits.
      width: number of units in each hidden layer.
      depth: number of hidden layers; 0 is a linear classifier.
      dropout: fraction of hidden units dropped in training.
      input_dropout: fraction of input values dropped in training.
      sizes: how many units a layer has, by the name of its feature, where it is not
        `width`: what is left of a pruned one (`narrowed`).

    Call:
      `[batch, ...]` floating inputs and `train` give logits `[batch, classes]` and the
      features `hidden1`, `hidden2`, ... `[batch, width]`, after the ReLU and before
      dropout.

    Raises:
      ValueError: if a size is negative, a rate is outside [0, 1], or the inputs are
        not floating or have no batch axis.

    >>> import jax
    >>> model = MLP(classes=10, width=32)
    >>> inputs = jax.numpy.ones((2, 8, 8))
    >>> outputs, _ = model.init_with_output(jax.random.key(0), inputs)
    >>> outputs.logits.shape, sorted(outputs.features)
    ((2, 10), ['hidden1', 'hidden2'])
    """

    classes: int
    width: int
    depth: int = 2
    dropout: float = 0.0
    input_dropout: float = 0.0
    sizes: Mapping[str, int] = core.FrozenDict()

    def __post_init__(self) -> None:
        """Check the sizes and rates before anything is built."""
        checks.positive("MLP", classes=self.classes, width=self.width)
        checks.fraction("MLP", dropout=self.dropout, input_dropout=self.input_dropout)
        if self.depth < 0:
            raise ValueError(f"MLP: depth must be >= 0, got {self.depth}")
        super().__post_init__()

    def _width(self, layer: int) -> int:
        return self.sizes.get(f"hidden{layer}", self.width)

    def units(self) -> dict[str, Units]:
        """Return the hidden units that can be pruned, by the name of their feature."""
        found = {}
        for layer in range(1, self.depth + 1):
            reader = "head" if layer == self.depth else f"dense{layer + 1}"
            made = f"params/dense{layer}"
            found[f"hidden{layer}"] = Units(
                self._width(layer),
                silenced=(Place(f"{made}/kernel", 1), Place(f"{made}/bias", 0)),
                indexed=(Place(f"params/{reader}/kernel", 0),),
            )
        return found

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Outputs:
        """Return logits and the hidden layers."""
        checks.floating("MLP", inputs=inputs)
        if inputs.ndim == 0:
            raise ValueError("MLP: inputs must be [batch, ...], got a scalar")
        x = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))
        x = nn.Dropout(self.input_dropout, deterministic=not train)(x)
        features = {}
        for layer in range(1, self.depth + 1):
            x = nn.relu(nn.Dense(self._width(layer), name=f"dense{layer}")(x))
            features[f"hidden{layer}"] = x
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Outputs(nn.Dense(self.classes, name="head")(x), features)
