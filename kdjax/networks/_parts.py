"""Learned parts of losses, held beside a student."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.base import Network, Outputs, Variables
from kdjax.networks._capture import unknown
from kdjax.networks._held import join_parts, parts_of, without_parts
from kdjax.networks._linen import from_linen

Names = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Part:
    """A learned part and what it reads.

    Its one argument is an array for a name, a list of arrays for several names, and the
    pair (student's, teacher's) where it reads both networks. `logits` is a name, too.

    Attributes:
      module: a Linen module, or any `Network`.
      student: the name or names of features of the network that holds it.
      teacher: the name or names of the teacher's features.

    >>> from kdjax.models import projectors
    >>> fusion = Part(projectors.ReviewFusion((16, 32)), ("stage1", "stage2"))
    >>> attention = Part(projectors.CrossLayerAttention(), ("stage1",), ("stage2",))
    """

    module: nn.Module | Network
    student: Names = None
    teacher: Names = None

    def __post_init__(self) -> None:
        """Check that it is a module and reads something."""
        if not isinstance(self.module, nn.Module | Network):
            raise ValueError(
                "networks.Part: must be a Linen module, or a Network, which from_nnx "
                f"and from_function make; got {type(self.module).__name__}"
            )
        if not self.student and not self.teacher:
            raise ValueError(
                "networks.Part: must read something: Part(module, 'stage2') of the "
                "student, Part(module, teacher='stage2') of the teacher"
            )

    @property
    def network(self) -> Network:
        """The module as a network."""
        module = self.module
        return module if isinstance(module, Network) else from_linen(module)

    def reads(self, name: str, student: Outputs, teacher: Any) -> Any:
        """Return what the part called `name` is given."""
        found = [
            _pick(f"the {whose} of part {name!r}", names, outputs)
            for whose, names, outputs in (
                ("student", self.student, student),
                ("teacher", self.teacher, teacher),
            )
            if names
        ]
        return tuple(found) if len(found) > 1 else found[0]


def _pick(whose: str, names: str | Sequence[str], outputs: Outputs) -> Any:
    if not isinstance(names, str):
        return [_pick(whose, name, outputs) for name in names]
    found = by_name(outputs)
    if names not in found:
        raise ValueError(f"networks.with_parts: {whose}: {unknown(names, [*found])}")
    return found[names]


def by_name(outputs: Outputs) -> dict[str, Any]:
    """Return all that a network says by the names that parts and layers have."""
    return {"logits": outputs.logits, **outputs.features}


def with_parts(
    network: Network | None,
    parts: Mapping[str, nn.Module | Network | Part],
    *,
    teacher: Network | None = None,
) -> Network:
    """Return the network with learned parts of losses beside it.

    What a part returns becomes `Outputs.features[name]`, in the place of a feature of
    the same name; a part called `logits` replaces the logits. Parts run in their order,
    and a later one reads what an earlier one returned. Given one key, the network is
    initialised as without parts; no part changes another's key.

    A part that reads the teacher does so in training: the train step passes the
    teacher's outputs as `apply(..., teacher=outputs)`, without gradient. Where none are
    passed, in evaluation, the part is left out.

    Args:
      network: usually the student; None for parts alone, such as a paraphraser that is
        trained on the teacher's map.
      parts: by name: a module, which reads the feature of its own name, or a `Part`.
      teacher: needed if a part reads it, for the shapes at `init`.

    Returns:
      A network whose variables are `{"params": {"network": ..., "parts": {name: ...}},
      ...}`, every collection alike. `without_parts` gives the network's own.

    Raises:
      ValueError: if there is no part; at `init` and `apply`, if a part reads a feature
        that is not there or the teacher and none is given.

    >>> from kdjax import models, networks
    >>> from kdjax.models import projectors
    >>> bare = networks.from_linen(models.ResNet(classes=10, depth=8))
    >>> student = with_parts(bare, {"stage2": projectors.ConvRegressor(128)})
    >>> key, images = jax.random.key(0), jnp.ones((2, 8, 8, 1))
    >>> variables = jax.eval_shape(student.init, key, images)
    >>> outputs, _ = jax.eval_shape(student.apply, variables, images)
    >>> outputs.features["stage2"].shape
    (2, 4, 4, 128)
    >>> without_parts(variables) == jax.eval_shape(bare.init, key, images)
    True
    """
    if not parts:
        raise ValueError("networks.with_parts: needs at least one part, got none")
    whole = _Whole(
        network or _NOTHING,
        {
            name: part if isinstance(part, Part) else Part(part, name)
            for name, part in parts.items()
        },
        teacher,
    )
    return Network(whole.init, whole.apply)


_NOTHING = Network(
    lambda key, inputs: {}, lambda variables, inputs, **_: (Outputs(None), variables)
)


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A network, its parts, and the teacher that some of them read."""

    bare: Network
    parts: Mapping[str, Part]
    teacher: Network | None

    def init(self, key: Any, inputs: Any) -> Variables:
        own = self.bare.init(key, inputs)
        said = None
        if self.teacher is not None:
            said = shapes(self.teacher, inputs)
        outputs = shapes(self.bare, inputs, variables=own, teacher=said)
        held = {}
        for name, part in self.parts.items():
            if part.teacher and said is None:
                raise ValueError(
                    f"networks.with_parts: part {name!r} reads the teacher: pass "
                    "with_parts(..., teacher=network)"
                )
            seen = part.reads(name, outputs, said)
            # only shapes count, and zeros spare running the networks
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen)
            held[name] = part.network.init(_own_key(key, name), zeros)
            returned, _ = jax.eval_shape(part.network.apply, held[name], zeros)
            outputs = _with(outputs, name, returned.logits)
        return join_parts(own, held)

    def apply(
        self,
        variables: Variables,
        inputs: Any,
        *,
        train: bool = False,
        rngs: Any = None,
        teacher: Outputs | None = None,
    ) -> tuple[Outputs, Variables]:
        ready = self._ready(train, teacher)
        outputs, own = self.bare.apply(
            without_parts(variables),
            inputs,
            train=train,
            rngs=rngs,
            **_hearing(self.bare.apply, teacher),
        )
        held = parts_of(variables)
        for name, part in ready.items():
            seen = part.reads(name, outputs, teacher)
            keys = jax.tree.map(lambda key, name=name: _own_key(key, name), rngs)
            returned, held[name] = part.network.apply(
                held.get(name, {}), seen, train=train, rngs=keys
            )
            outputs = _with(outputs, name, returned.logits)
        return outputs, join_parts(own, held) if train else variables

    def _ready(self, train: bool, teacher: Outputs | None) -> dict[str, Part]:
        """Return the parts that can be applied with or without the teacher."""
        if teacher is not None:
            return dict(self.parts)
        ready: dict[str, Part] = {}
        absent: set[str] = set()
        for name, part in self.parts.items():
            read = [part.student] if isinstance(part.student, str) else part.student
            if part.teacher or absent & set(read or ()):
                absent.add(name)
            else:
                ready[name] = part
        if train and absent:
            raise ValueError(
                f"networks.with_parts: training needs the teacher's outputs for "
                f"{sorted(absent)}: apply(..., teacher=outputs)"
            )
        return ready


def _own_key(key: Any, name: str) -> Any:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _with(outputs: Outputs, name: str, value: Any) -> Outputs:
    if name == "logits":
        return dataclasses.replace(outputs, logits=value)
    return dataclasses.replace(outputs, features={**outputs.features, name: value})


def _hearing(apply: Callable[..., Any], teacher: Any) -> dict[str, Any]:
    known = inspect.signature(apply).parameters
    return {"teacher": teacher} if "teacher" in known else {}


def shapes(
    network: Network,
    inputs: Any,
    *,
    variables: Variables | None = None,
    teacher: Outputs | None = None,
) -> Outputs:
    """Return what a network says, as shapes and dtypes; nothing is computed.

    Args:
      network: any network.
      inputs: what it reads, or shapes and dtypes of it.
      variables: its variables, or shapes and dtypes; None asks its `init`.
      teacher: what the teacher says, for a network with parts that read it.

    Returns:
      `Outputs` of `jax.ShapeDtypeStruct`.

    >>> from kdjax import models, networks
    >>> network = networks.from_linen(models.MLP(classes=3, width=4, depth=1))
    >>> shapes(network, jnp.ones((2, 5))).features["hidden1"].shape
    (2, 4)
    """

    def say(variables: Variables | None, inputs: Any, teacher: Any) -> Outputs:
        if variables is None:
            variables = network.init(jax.random.key(0), inputs)
        return network.apply(variables, inputs, **_hearing(network.apply, teacher))[0]

    return jax.eval_shape(say, variables, inputs, teacher)
