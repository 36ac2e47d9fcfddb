"""The pair of factor transfer: one condenses the teacher's map, one the student's."""

from flax import linen as nn
from jax import Array

from kdjax import checks
from kdjax.models.projectors._blocks import Conv, check_maps


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.1)


class Paraphraser(nn.Module):
    """Condenses the teacher's map to a factor from which the map can be rebuilt.

    It is trained first, by reconstruction alone, then frozen as a part of the teacher::

        parts = {"stage3": networks.Part(Paraphraser(), teacher="stage3")}
        learner = networks.with_parts(None, parts, teacher=teacher)

        def objective(student, teacher, batch):
            _, reconstruction = student.features["stage3"]
            return {"l2": ((reconstruction - teacher.features["stage3"]) ** 2).mean()}

        step = train.make_step(learner.apply, teacher.apply, objective, tx)
        ...  # train
        learnt = networks.parts_of(state.variables)["stage3"]
        parts = {"factor": networks.Part(Paraphraser(), "stage3")}
        teacher = networks.with_parts(teacher, parts)
        teacher_variables = networks.join_parts(teacher_variables, {"factor": learnt})

    Args:
      rate: channels of the factor for each of the map, rounded down.
      norm: whether batch normalisation follows the convolutions.

    Call:
      `[batch, *spatial, channels]` and `train` give the factor
      `[batch, *spatial, int(rate * channels)]` and the rebuilt map.

    Raises:
      ValueError: if the rate leaves no channel or the input is no map.

    Source: Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via
    Factor Transfer", https://arxiv.org/abs/1802.04977 (2018).

    >>> import jax
    >>> init = Paraphraser(rate=0.5).init_with_output
    >>> images = jax.numpy.ones((2, 8, 8, 32))
    >>> (factor, rebuilt), _ = jax.eval_shape(init, jax.random.key(0), images)
    >>> factor.shape, rebuilt.shape
    ((2, 8, 8, 16), (2, 8, 8, 32))
    """

    rate: float = 0.5
    norm: bool = False

    def __post_init__(self) -> None:
        """Check the rate before anything is built."""
        checks.positive("Paraphraser", rate=self.rate)
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Array, train: bool = False) -> tuple[Array, Array]:
        """Return the factor and the rebuilt map."""
        check_maps("Paraphraser", maps)
        channels = maps.shape[-1]
        condensed = int(self.rate * channels)
        if not condensed:
            raise ValueError(
                f"Paraphraser: rate {self.rate} leaves no channel of {list(maps.shape)}"
            )
        x, factor = maps, maps
        # The published decoder has transposed convolutions; with stride 1 these are
        # convolutions.
        widths = (channels, condensed, condensed, condensed, channels, channels)
        for number, width in enumerate(widths, start=1):
            x = _leaky(Conv(width, 3, self.norm, name=f"conv{number}")(x, train))
            factor = x if number == 3 else factor
        return factor, x


class Translator(nn.Module):
    """Brings the student's map to the teacher's factor.

    Args:
      features: channels of the factor: `int(rate * channels)` of the teacher's.
      norm: whether batch normalisation follows the convolutions.

    Call:
      `[batch, *spatial, channels]` and `train` give `[batch, *spatial, features]`.

    Raises:
      ValueError: if the width is not positive or the input is no map.

    Source: Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via
    Factor Transfer", https://arxiv.org/abs/1802.04977 (2018).

    >>> import jax
    >>> init = Translator(16).init_with_output
    >>> images = jax.numpy.ones((2, 8, 8, 8))
    >>> jax.eval_shape(init, jax.random.key(0), images)[0].shape
    (2, 8, 8, 16)
    """

    features: int
    norm: bool = True

    def __post_init__(self) -> None:
        """Check the width before anything is built."""
        checks.positive("Translator", features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Array, train: bool = False) -> Array:
        """Return the student's factor."""
        check_maps("Translator", maps)
        x = maps
        widths = (maps.shape[-1], self.features, self.features)
        for number, width in enumerate(widths, start=1):
            x = _leaky(Conv(width, 3, self.norm, name=f"conv{number}")(x, train))
        return x
