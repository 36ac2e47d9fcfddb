"""Many students beside one teacher in one program: a sweep."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from kdjax import objectives, plans, trees
from kdjax.base import Batch, Network, PyTree, Select, rows
from kdjax.train.gradients import Task
from kdjax.train.sharding import Shardings
from kdjax.train.state import TrainState, init
from kdjax.train.step import Done, Metrics, Step, advance, in_place, reasons

MakeTx = Callable[[Any], optax.GradientTransformation]


def make_sweep_step(
    student_apply: Callable[..., Any],
    teacher_apply: Callable[..., Any] | None,
    make_objective: Callable[[Any], objectives.Objective],
    make_tx: MakeTx,
    settings: PyTree,
    *,
    plan: plans.Plan = "auto",
    shardings: Shardings | None = None,
    inputs: Select = "image",
) -> Step:
    """Return the step that trains N students at once, which differ in numbers or seed.

    All members see one batch and what one teacher says of it: the teacher runs once.
    Member i ends with the parameters of a `make_step` run of its own, with
    `make_objective(setting_i)`, `make_tx(setting_i)`, its key and the same batches.
    `run` and `scan` take the step as they take any other.

    Args:
      student_apply: the students' `Network.apply`.
      teacher_apply: the teacher's, or None. One that draws random numbers draws them
        once for all, with the first member's key.
      make_objective: `make_objective(setting) -> objective` of one member; the
        numbers of its setting are traced: no `if` on them.
      make_tx: `make_tx(setting) -> optimizer` likewise; a schedule that looks at its
        peak, as the warm-up ones of optax do, is made of size 1 and scaled.
      settings: usually `{name: [N] numbers}`; each leaf an array `[N, ...]` or a list.
        For students that differ in seed alone, `{"seed": [0, 1, 2]}` says how many.
        They are constants of the program: other settings compile it anew.
      plan: how the members are run, see `plans.over`; "auto" takes what is fast for
        these networks on this device. The results are the same.
      shardings: as for `make_step`; the members are not spread, but their batch is.
      inputs: as for `make_step`.

    Returns:
      A `Step` of states from `init_sweep`. Its metrics are those of `make_step`, `[N]`
      each, but for two scalars: `step`, and `skipped_in_a_row` of the member that has
      the fewest. A member that is not finite thus skips its own steps and disturbs no
      other; `run` stops when all of them are stuck.

    Raises:
      ValueError: for an unknown plan, or settings that are no numbers or do not share
        N; when first traced, for a state of another N, and as `make_step` does.

    Example::

        def make_objective(setting):
            def objective(student, teacher, batch):
                soft = losses.soft_target_kl(
                    student.logits, teacher.logits, temperature=setting["temperature"]
                )
                return {"soft": soft.mean()}

            return objective

        def make_tx(setting):
            return optax.adam(setting["rate"])

        settings = {"temperature": [1.0, 2.0, 4.0], "rate": [1e-2, 1e-2, 1e-3]}
        step = train.make_sweep_step(
            student.apply, teacher.apply, make_objective, make_tx, settings
        )
        keys = jax.random.split(jax.random.key(0), 3)
        state = train.init_sweep(student, make_tx, settings, keys, example_inputs)
        state, metrics = step(state, teacher_variables, batch)
        first, *others = trees.unstack(state)
    """
    _check_functions(make_objective=make_objective, make_tx=make_tx)
    settings, size = _checked("make_sweep_step", settings)
    plans.check(plan)

    def task(setting: Any) -> Task:
        return Task(student_apply, teacher_apply, _of(make_objective, setting), inputs)

    def pure(state: TrainState, teacher: Any, batch: Batch) -> Done:
        _check_state(state, size)
        batch = rows(batch)
        first, setting = jax.tree.map(lambda x: x[0], (state, settings))
        key = jax.random.fold_in(first.key, first.step)
        taught = task(setting).teach(teacher, batch, key)

        def member(given: tuple[TrainState, Any]) -> Done:
            held, setting = given
            key = jax.random.fold_in(held.key, held.step)
            found = task(setting).gradients(held, held.rest, key, taught, batch)
            return advance(held, _of(make_tx, setting), found)

        done, metrics = plans.over(member, plan, training=True)((state, settings))
        return in_place(shardings, done, _reported(metrics))

    def blame(state: TrainState, teacher: Any, batch: Batch) -> dict[str, str]:
        members, whole = trees.unstack((state, settings)), rows(batch)
        found = (reasons(task(of), held, teacher, whole) for held, of in members)
        return _first_fault(found)

    return Step(pure, blame)


def _first_fault(found: Iterable[dict[str, str]]) -> dict[str, str]:
    for number, faults in enumerate(found):
        if faults:
            return {name: f"{why} (member {number})" for name, why in faults.items()}
    return {}


def _of(make: Callable[[Any], Any], setting: Any) -> Any:
    """Return what a function makes of a setting; say what to do where it cannot."""
    try:
        return make(setting)
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            "make_sweep_step: the numbers of a setting are traced, so nothing can be "
            "decided by them; some optax schedules do. Scale a schedule of size 1: "
            "optax.chain(optax.scale_by_schedule(of_one), optax.scale(setting['rate']))"
        ) from error


def _check_functions(**functions: Any) -> None:
    for name, make in functions.items():
        if not callable(make):
            raise ValueError(
                f"make_sweep_step: {name} must be a function of a setting, got "
                f"{type(make).__name__}"
            )


def _reported(metrics: Metrics) -> Metrics:
    """Return the members' metrics, with one for all where `run` looks at it."""
    stuck = metrics["skipped_in_a_row"].min()
    return {**metrics, "step": metrics["step"][0], "skipped_in_a_row": stuck}


def init_sweep(
    network: Network, make_tx: MakeTx, settings: PyTree, keys: Array, inputs: Any
) -> TrainState:
    """Return the stacked state of a sweep before its first step.

    Args:
      network: the students'.
      make_tx: as for `make_sweep_step`.
      settings: as for `make_sweep_step`.
      keys: `[N]` random keys, the seeds; members with one key start alike.
      inputs: a batch of inputs; only its shapes and dtypes count.

    Returns:
      A `TrainState` with leaves `[N, ...]`; member i is `train.init` of its own key,
      and `trees.unstack(state)[i]`.

    Raises:
      ValueError: if there are not as many keys as members, or for such settings as
        `make_sweep_step` refuses.

    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, x: x @ params,
    ...                                 lambda key, x: jax.random.normal(key, (4, 2)))
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> rates = {"rate": [0.1, 0.2, 0.3]}
    >>> make_tx = lambda setting: optax.sgd(setting["rate"])
    >>> init_sweep(linear, make_tx, rates, keys, jnp.ones((1, 4))).params.shape
    (3, 4, 2)
    """
    settings, size = _checked("init_sweep", settings)
    if np.shape(keys)[:1] != (size,):
        raise ValueError(
            f"init_sweep: needs one key for each of the {size} members, got keys of "
            f"shape {list(np.shape(keys))}; jax.random.split(key, {size}) makes them"
        )

    def member(given: tuple[Any, Array]) -> TrainState:
        setting, key = given
        return init(network, _of(make_tx, setting), key, inputs)

    # It runs once: what counts is that one member's program is all there is to compile.
    return plans.over(member, "map")((settings, keys))


def _checked(function: str, settings: PyTree) -> tuple[PyTree, int]:
    """Return the settings as arrays, and how many members they are for."""

    def to_array(path: Any, leaf: Any) -> Array:
        if isinstance(leaf, jax.Array):
            return leaf
        array = np.asarray(leaf)
        if array.dtype.kind not in "biuf":
            raise ValueError(
                f"{function}: settings must be [N] numbers, got "
                f"{trees.path_name(path)} = {leaf!r}; students that differ in anything "
                "else need a sweep each"
            )
        return jnp.asarray(array)

    arrays = jax.tree_util.tree_map_with_path(to_array, settings, is_leaf=_is_list)
    shapes = {n: x.shape for n, x in trees.select(arrays, lambda *_: True).items()}
    sizes = {(*shape, 0)[0] for shape in shapes.values()}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"{function}: every setting needs one number for each of the N members, "
            f"got the shapes {shapes}"
        )
    return arrays, sizes.pop()


def _is_list(value: Any) -> bool:
    """Whether it is several numbers, not a tree of settings."""
    return isinstance(value, list | tuple) and not any(map(np.ndim, value))


def _check_state(state: TrainState, size: int) -> None:
    if state.step.shape != (size,):
        raise ValueError(
            f"the sweep has settings for {size} members, but the state's step has the "
            f"shape {list(state.step.shape)}, not [{size}]; train.init_sweep makes it"
        )
