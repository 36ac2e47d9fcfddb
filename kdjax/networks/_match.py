"""Which layers can be compared: shapes checked before training starts."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from kdjax.base import Network, Outputs
from kdjax.models import projectors
from kdjax.networks._capture import unknown
from kdjax.networks._parts import by_name, shapes

Shape = tuple[int, ...]
Layers = Iterable[str | tuple[str, str]]

_NEEDS: dict[str, Callable[[Shape], Any]] = {
    "shape": lambda shape: shape,
    "channels": lambda shape: (shape[0], len(shape), shape[-1]),
    "axes": lambda shape: (shape[0], len(shape)),
    "batch": lambda shape: shape[0],
}


class _Pair(NamedTuple):
    """Two layers to compare: a problem if they cannot be, and what would solve it."""

    student: str
    teacher: str
    shapes: tuple[Shape, Shape] | None = None
    problem: str = ""
    remedy: nn.Module | None = None

    def __str__(self) -> str:
        same = self.student == self.teacher
        name = self.student if same else f"{self.student} -> {self.teacher}"
        if self.shapes is None:
            return f"  {name}:{self.problem}"
        student, teacher = (_show(shape) for shape in self.shapes)
        advice = "no projector solves it: choose another layer"
        if self.remedy is not None:
            advice = f'add "{self.student}": projectors.{_code(self.remedy)}'
        told = f"  {name}: student {student}, teacher {teacher}: {self.problem}"
        return f"{told}\n    {advice}"


def match(
    student: Network,
    teacher: Network,
    inputs: Any,
    layers: Layers,
    *,
    needs: str = "channels",
) -> dict[tuple[str, str], tuple[Shape, Shape]]:
    """Check that layers of two networks can be compared; nothing is computed.

    Args:
      student: with its projectors, if it has any.
      teacher: any network that has an `init`.
      inputs: a batch that both read; only shapes and dtypes count.
      layers: names of features, or pairs (student's, teacher's) where they differ.
      needs: what the loss needs to be equal. "channels", enough for the losses on maps,
        which pool the larger map to the smaller: the numbers of axes and channels;
        "shape": the sizes as well; "axes", for attention maps: the number of axes;
        "batch", for relations between examples: nothing but the batch.

    Returns:
      For each pair of names the pair of shapes. Of a feature that is several arrays the
      first counts, such as the mean of a `VariationalRegressor`.

    Raises:
      ValueError: one that lists all layers that cannot be compared, each with the
        projector that would solve it, if one would; for what is no name and no pair.

    >>> from kdjax import models, networks
    >>> teacher = networks.from_linen(models.ResNet(classes=10, depth=14, width=2))
    >>> student = networks.from_linen(models.ResNet(classes=10, depth=8))
    >>> images = jax.ShapeDtypeStruct((2, 8, 8, 1), "float32")
    >>> match(student, teacher, images, [("stage3", "stage2")])
    {('stage3', 'stage2'): ((2, 2, 2, 64), (2, 4, 4, 64))}
    >>> match(student, teacher, images, ["stage1", "stage2"])
    Traceback (most recent call last):
        ...
    ValueError: networks.match: 2 of 2 layers cannot be compared (needs='channels'):
      stage1: student [batch, 8, 8, 16], teacher [batch, 8, 8, 32]: channels differ
        add "stage1": projectors.ConvRegressor(32)
      stage2: student [batch, 4, 4, 32], teacher [batch, 4, 4, 64]: channels differ
        add "stage2": projectors.ConvRegressor(64)
    networks.with_parts(student, networks.projectors_for(...)) adds these projectors
    """
    pairs = _compare("networks.match", student, teacher, inputs, layers, needs)
    wrong = [pair for pair in pairs if pair.problem]
    _refuse("networks.match", wrong, len(pairs), needs)
    return {(one.student, one.teacher): one.shapes for one in pairs if one.shapes}


def projectors_for(
    student: Network,
    teacher: Network,
    inputs: Any,
    layers: Layers,
    *,
    needs: str = "channels",
) -> dict[str, nn.Module]:
    """Return the projectors without which `match` would raise, by the student's layer.

    Args:
      student: without projectors.
      teacher: as for `match`, like all else.
      inputs: a batch that both read.
      layers: names, or pairs of names.
      needs: what the loss needs.

    Returns:
      What `with_parts` takes: a `ConvRegressor` for maps (without ReLU if the name of
      the teacher's ends in `_preact`), a `LinearEmbedding` for `[batch, features]` of
      the teacher. Nothing for layers that fit as they are.

    Raises:
      ValueError: for layers that no projector brings together, and for a student's
        layer that would need two different ones.

    >>> from kdjax import models, networks
    >>> teacher = networks.from_linen(models.ResNet(classes=10, depth=14, width=2))
    >>> student = networks.from_linen(models.ResNet(classes=10, depth=8))
    >>> images = jax.ShapeDtypeStruct((2, 8, 8, 1), "float32")
    >>> found = projectors_for(student, teacher, images, ("stage2", "pooled"))
    >>> {name: (type(part).__name__, part.features) for name, part in found.items()}
    {'stage2': ('ConvRegressor', 64), 'pooled': ('LinearEmbedding', 128)}
    """
    function = "networks.projectors_for"
    pairs = _compare(function, student, teacher, inputs, layers, needs)
    hopeless = [pair for pair in pairs if pair.problem and pair.remedy is None]
    _refuse(function, hopeless, len(pairs), needs)
    found: dict[str, nn.Module] = {}
    for pair in pairs:
        remedies = {
            _code(one.remedy) if one.remedy else ""
            for one in pairs
            if one.student == pair.student
        }
        if len(remedies) > 1:
            raise ValueError(
                f"{function}: the student's {pair.student!r} is compared with several "
                "layers and cannot suit all; give each its own part: "
                f"with_parts(student, {{'other': Part(..., {pair.student!r})}})"
            )
        if pair.remedy is not None:
            found[pair.student] = pair.remedy
    return found


def _refuse(function: str, wrong: list[_Pair], of: int, needs: str) -> None:
    if not wrong:
        return
    lines = [
        f"{function}: {len(wrong)} of {of} layers cannot be compared ({needs=}):",
        *map(str, wrong),
    ]
    if any(pair.remedy for pair in wrong):
        lines.append(
            "networks.with_parts(student, networks.projectors_for(...)) adds these "
            "projectors"
        )
    raise ValueError("\n".join(lines))


def _compare(
    function: str,
    student: Network,
    teacher: Network,
    inputs: Any,
    layers: Layers,
    needs: str,
) -> list[_Pair]:
    if needs not in _NEEDS:
        raise ValueError(f"{function}: needs must be one of {[*_NEEDS]}, got {needs!r}")
    if isinstance(layers, str):
        raise ValueError(f"{function}: layers must be a sequence, got {layers!r}")
    named = [(one, one) if isinstance(one, str) else tuple(one) for one in layers]
    for pair in named:
        if len(pair) != 2:
            raise ValueError(
                f"{function}: layers must be names, or pairs (student's, teacher's); "
                f"got {pair}"
            )
    taught = shapes(teacher, inputs)
    said = shapes(student, inputs, teacher=taught)
    return [_compared(one, other, said, taught, needs) for one, other in named]


def _compared(
    one: str, other: str, student: Outputs, teacher: Outputs, needs: str
) -> _Pair:
    found, missing = [], []
    for whose, name, outputs in (
        ("student", one, student),
        ("teacher", other, teacher),
    ):
        known = by_name(outputs)
        leaves: list[Any] = jax.tree.leaves(known.get(name))
        found += [tuple(leaf.shape) for leaf in leaves[:1]]
        if not leaves:
            missing.append(f"\n    {whose}: {unknown(name, [*known])}")
    if missing:
        return _Pair(one, other, problem="".join(missing))
    s, t = found
    problem = _problem(s, t, needs)
    remedy = _remedy(s, t, needs, other) if problem else None
    return _Pair(one, other, (s, t), problem, remedy)


def _problem(s: Shape, t: Shape, needs: str) -> str:
    """Say what differs that must not."""
    if not s or not t:
        return "one has no batch axis"
    if _NEEDS[needs](s) == _NEEDS[needs](t):
        return ""
    if s[0] != t[0]:
        return "batch sizes differ"
    if len(s) != len(t):
        return "numbers of axes differ"
    if s[1:-1] == t[1:-1] or needs == "channels":
        return "channels differ"
    if s[-1] != t[-1]:
        return "channels and sizes differ"
    return "sizes differ (losses on maps pool the larger; needs='channels' allows it)"


def _remedy(s: Shape, t: Shape, needs: str, name: str) -> nn.Module | None:
    """Return the projector from one shape to the other, the teacher's called `name`."""
    if len(s) < 2 or not t or s[0] != t[0]:
        return None
    if len(t) == 2:
        return projectors.LinearEmbedding(t[-1])
    if len(s) != len(t):
        return None
    resized = needs == "shape" and s[1:-1] != t[1:-1]
    return projectors.ConvRegressor(
        t[-1],
        spatial=t[1:-1] if resized else None,
        # what a ReLU returns is never negative, what stands before one may be
        relu=not name.endswith("_preact"),
    )


def _code(module: Any) -> str:
    given = [str(module.features)]
    if isinstance(module, projectors.ConvRegressor):
        given += [f"spatial={module.spatial}"] if module.spatial else []
        given += [] if module.relu else ["relu=False"]
    return f"{type(module).__name__}({', '.join(given)})"


def _show(shape: Shape) -> str:
    return f"[{', '.join(['batch', *map(str, shape[1:])])}]" if shape else "[]"
