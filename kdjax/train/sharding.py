"""How training is spread over devices: a mesh, and a rule for each array."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdjax import trees
from kdjax.base import Padded, PyTree

Rule = Callable[[str, tuple[int, ...]], PartitionSpec]
"""`rule(path, shape) -> PartitionSpec` of an array, say of `params/Dense_0/kernel`."""


def make_mesh(
    data: int | None = None, model: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Return a mesh with the axes `"data"` and `"model"`.

    Args:
      data: over how many devices a batch is spread; None takes all there are.
      model: over how many devices large arrays are spread, beside that.
      devices: the devices; by default all of all processes. If `data * model` is less,
        the first of them are taken.

    Raises:
      ValueError: if there are not as many devices, or if some process would have none.

    >>> dict(make_mesh(1).shape)
    {'data': 1, 'model': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    if min(model, 1 if data is None else data) < 1 or model > len(devices):
        raise ValueError(_too_many(data, model, len(devices)))
    data = len(devices) // model if data is None else data
    used = devices[: data * model]
    if len(used) < data * model:
        raise ValueError(_too_many(data, model, len(devices)))
    idle = {d.process_index for d in devices} - {d.process_index for d in used}
    if idle:
        raise ValueError(
            f"make_mesh: data={data} x model={model} leaves the processes "
            f"{sorted(idle)} without a device; there are {len(devices)}"
        )
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, model), ("data", "model"), types, devices=used)


def _too_many(data: int | None, model: int, there: int) -> str:
    return (
        f"make_mesh: data={'all' if data is None else data} x model={model} must be at "
        f"least 1 each and at most the {there} devices there are"
    )


def replicated(path: str, shape: tuple[int, ...]) -> PartitionSpec:
    """Give every device a whole copy: the rule for what is small."""
    return PartitionSpec()


def longest_axes(
    mesh: Mesh | jax.sharding.AbstractMesh, *names: str, least: int = 2**14
) -> Rule:
    """Return the rule that cuts every large array along its longest axes that fit.

    Parameters, their gradients and what an optimizer keeps of them have one shape, so
    they are cut alike. Over `"model"` beside a batch over `"data"` the products are
    divided as well (Shoeybi et al., "Megatron-LM", https://arxiv.org/abs/1909.08053,
    2019); over `"data"`, too, or alone, a device gathers what it needs when it needs it
    ("fully sharded data parallel": Rajbhandari et al., "ZeRO",
    https://arxiv.org/abs/1910.02054, 2020).

    Args:
      mesh: the mesh.
      names: the axes of the mesh to cut over; each takes the longest axis of the array
        that it divides, one that is whole rather than one that is cut already.
      least: arrays with fewer elements are replicated.

    >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    >>> rule = longest_axes(mesh, "model", "data", least=100)
    >>> rule("params/Dense_0/kernel", (16, 64)), rule("params/Dense_0/bias", (64,))
    (P('data', 'model'), P())
    """

    several = [name for name in names if mesh.shape[name] > 1]

    def rule(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        if math.prod(shape) < least:
            return PartitionSpec()
        axes = range(len(shape))
        cut: list[tuple[str, ...]] = [() for _ in axes]

        def preferred(k: int) -> tuple[bool, int]:
            return not cut[k], shape[k]

        for name in several:
            parts = [math.prod(mesh.shape[n] for n in (*cut[k], name)) for k in axes]
            fitting = [k for k in axes if shape[k] % parts[k] == 0]
            if fitting:
                cut[max(fitting, key=preferred)] += (name,)
        return PartitionSpec(*(n or None for n in cut))

    return rule


@dataclasses.dataclass(frozen=True)
class Shardings:
    """Where the arrays of a training lie.

    Attributes:
      mesh: from `make_mesh`, or any with the axis `"data"`.
      state: the rule for what is trained and its optimizer's state.
      teacher: the rule for the teacher's variables; by default the same.

    Raises:
      ValueError: if the mesh has no such axis.

    Example::

        mesh = train.make_mesh(data=4, model=2)
        shardings = train.Shardings(mesh, train.longest_axes(mesh, "model"))
        step = train.make_step(..., shardings=shardings)
        state = shardings.place(train.init(student, tx, key, example_inputs))
        teacher_variables = shardings.place_teacher(teacher_variables)
        batches = data.Batches(arrays, 256, sharding=shardings.batch)
        for state, metrics in train.run(step, state, teacher_variables, batches):
            ...
    """

    mesh: Mesh
    state: Rule = replicated
    teacher: Rule | None = None

    def __post_init__(self) -> None:
        """Have XLA follow the axes by itself: in types they cannot be uneven."""
        if "data" not in self.mesh.axis_names:
            raise ValueError(
                "Shardings: the mesh needs an axis 'data' for batches, it has "
                f"{self.mesh.axis_names}; train.make_mesh makes one"
            )
        mesh = Mesh(self.mesh.devices, self.mesh.axis_names)
        object.__setattr__(self, "mesh", mesh)

    @property
    def batch(self) -> NamedSharding:
        """How the rows of a batch are laid out."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    @property
    def everywhere(self) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of(self, state: PyTree) -> PyTree:
        """Return the sharding of each array of a state, or of their shapes."""
        return self._by(self.state, state)

    def of_teacher(self, variables: PyTree) -> PyTree:
        """Return the sharding of each of the teacher's arrays, or of their shapes."""
        return self._by(self.teacher or self.state, variables)

    def place(self, state: PyTree) -> PyTree:
        """Return the state, or variables, on the devices of the mesh.

        Every process gives the same values, and holds what its own devices do.
        """
        return jax.tree.map(_placed, state, self.of(state))

    def place_teacher(self, variables: PyTree) -> PyTree:
        """Return the teacher's variables on these devices, by their own rule."""
        return jax.tree.map(_placed, variables, self.of_teacher(variables))

    def place_batch(self, batch: PyTree) -> Any:
        """Return a batch that all processes have, spread over the devices.

        One that does not divide evenly is filled up: the step is given a `Padded`.
        """
        count = len(jax.tree.leaves(batch)[0])
        missing = -count % self.mesh.shape["data"]

        def one(leaf: Any) -> Any:
            padding = [(0, missing)] + [(0, 0)] * (np.ndim(leaf) - 1)
            return _placed(np.pad(np.asarray(leaf), padding), self.batch)

        arrays = jax.tree.map(one, batch)
        return Padded(arrays, count) if missing else arrays

    def constrain(self, state: PyTree) -> PyTree:
        """Keep a state, inside of a compiled function, where it lies."""
        return jax.lax.with_sharding_constraint(state, self.of(state))

    def constrain_rows(self, batch: PyTree, axis: int) -> PyTree:
        """Spread rows, which are an axis, over devices, inside a compiled function."""
        spec = PartitionSpec(*[None] * axis, "data")
        return jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, spec))

    def _by(self, rule: Rule, tree: PyTree) -> PyTree:
        def one(path: Any, leaf: Any) -> NamedSharding:
            spec = rule(trees.path_name(path), tuple(np.shape(leaf)))
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(one, tree)


def _placed(leaf: Any, sharding: NamedSharding) -> Any:
    if getattr(leaf, "sharding", None) == sharding:
        return leaf
    if sharding.is_fully_addressable:  # a copy, for the step donates what it is given
        return jax.device_put(leaf, sharding, may_alias=False)
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
        data = _placed(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    host = np.asarray(leaf)  # device_put would have all processes compare their values
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])
