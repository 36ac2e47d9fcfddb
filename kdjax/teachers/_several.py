"""Several teachers as one network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array

from kdjax import checks, plans, trees
from kdjax.base import Network, Outputs, PyTree, Variables
from kdjax.teachers._means import dropped, mean_probabilities

Combine = Callable[[Any], Array]


def ensemble(
    network: Network,
    size: int,
    combine: Combine | None = mean_probabilities,
    *,
    plan: plans.Plan = "auto",
) -> Network:
    """Return `size` networks of one architecture as one network.

    Its variables are the members' with a new leading axis: `stack([v1, v2, ...])` for
    trained ones; `init` draws every member from its own key.

    Args:
      network: the architecture of every member.
      size: number of members.
      combine: joins logits `[teachers, batch, ..., classes]` to
        `[batch, ..., classes]`: `mean_probabilities`, `mean_logits` or your own. None
        leaves them as they are, for an objective that weighs teachers by labels, or
        for students that teach each other.
      plan: how the members are evaluated: "vmap" at once, "map" one after the other in
        a loop, "unroll" one after the other; "auto" takes what is fast for this network
        on this device. The results are the same.

    Returns:
      A network whose features keep the leading axis `[teachers, batch, ...]`; where
      logits are combined, the feature `dropped_teachers` counts what is not `usable`,
      which the means leave out. One key as `rngs` is split among the members. In
      training every member updates its own
      statistics; gradients reach all members unless the network is `frozen`.

    Raises:
      ValueError: if `size` is not positive, `plan` is unknown, or, when applied, a
        leaf of the variables has another leading axis than `size`.

    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, inputs: inputs @ params)
    >>> three = {"params": jax.numpy.ones((3, 4, 2))}
    >>> ensemble(linear, 3).apply(three, jax.numpy.ones((5, 4)))[0].logits.shape
    (5, 2)
    """
    checks.positive("ensemble", size=size)
    _check_combine("ensemble", combine)
    plans.check(plan)

    def init(key: Array, inputs: Any) -> Variables:
        keys = jax.random.split(key, size)
        return trees.stack([network.init(one, inputs) for one in keys])

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        _check_members("ensemble", variables, size)
        keys = jax.tree.map(lambda key: jax.random.split(key, size), rngs)

        def member(given: tuple[Variables, Any]) -> tuple[Outputs, Variables]:
            held, key = given
            outputs, updated = network.apply(held, inputs, train=train, rngs=key)
            # Only what can change leaves the loop: the rest would be copied.
            kept = {c: v for c, v in updated.items() if train and c != "params"}
            return outputs, kept

        run = plans.over(member, plan, training=train)
        outputs, updated = run((variables, keys))
        joined = _joined(outputs.logits, outputs.features, combine)
        return joined, {**variables, **updated} if updated else variables

    return Network(init, apply)


def mixture(
    members: Sequence[Network] | Mapping[str, Network],
    combine: Combine | None = mean_probabilities,
) -> Network:
    """Return networks of different architectures and frameworks as one network.

    Its variables are a tuple of the members', or a dict with the members' names. A
    member that needs another view of the inputs is `viewed`.

    Args:
      members: networks, in a sequence or by name.
      combine: joins logits `[teachers, batch, ..., classes]`; None leaves a tuple of
        the members' logits, which may have different classes.

    Returns:
      A network whose features are called `name/feature`, with the place in the
      sequence where members have no name; where logits are combined, the feature
      `dropped_teachers` counts what is not `usable`, which the means leave out. Every
      member has a key of its own.

    Raises:
      ValueError: if there is no member; when applied, if the variables are not one for
        each member, or logits to combine differ in shape.

    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, inputs: inputs @ params)
    >>> square = networks.from_function(lambda params, inputs: inputs**2 @ params)
    >>> both = mixture({"linear": linear, "square": square})
    >>> params = {"params": jax.numpy.ones((4, 2))}
    >>> variables = {"linear": params, "square": params}
    >>> both.apply(variables, jax.numpy.ones((5, 4)))[0].logits.shape
    (5, 2)
    """
    networks, named = _by_name(members), isinstance(members, Mapping)
    _check_combine("mixture", combine)

    def together(each: dict[Any, Any]) -> PyTree:
        return each if named else tuple(each.values())

    def init(key: Array, inputs: Any) -> PyTree:
        keys = jax.random.split(key, len(networks))
        drawn = zip(networks.items(), keys, strict=True)
        return together({k: one.init(key, inputs) for (k, one), key in drawn})

    def apply(
        variables: PyTree, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, PyTree]:
        _check_mixed(variables, list(networks), named)
        said, updated = {}, {}
        for number, (name, one) in enumerate(networks.items()):
            keys = jax.tree.map(lambda k, n=number: jax.random.fold_in(k, n), rngs)
            said[name], updated[name] = one.apply(
                variables[name], inputs, train=train, rngs=keys
            )
        features = {
            f"{name}/{feature}": value
            for name, outputs in said.items()
            for feature, value in outputs.features.items()
        }
        logits = tuple(outputs.logits for outputs in said.values())
        _check_alike(dict(zip(networks, logits, strict=True)), combine)
        return _joined(logits, features, combine), together(updated)

    return Network(init, apply)


def drawn(network: Network, size: int) -> Network:
    """Return one of `size` teachers of one architecture, drawn anew at every step.

    Only the one that is drawn is evaluated, so that many teachers cost as much as one.
    Where it says NaN, the train step skips the batch.

    Args:
      network: the architecture of every teacher.
      size: number of teachers.

    Returns:
      A network with the stacked variables of `ensemble`. `apply` needs `rngs`, which
      the train step gives it.

    Raises:
      ValueError: if `size` is not positive; when applied, if `rngs` is missing, or a
        leaf of the variables has another leading axis than `size`.

    Source: You, Xu, Xu and Tao, "Learning from multiple teacher networks" (KDD 2017)
    average teachers; drawing one of them is their mean in expectation, as in Fukuda et
    al., "Efficient knowledge distillation from an ensemble of teachers" (2017).

    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, inputs: inputs @ params)
    >>> teacher, key = drawn(linear, 3), jax.random.key(0)
    >>> three = {"params": jax.numpy.ones((3, 4, 2))}
    >>> teacher.apply(three, jax.numpy.ones((5, 4)), rngs=key)[0].logits.shape
    (5, 2)
    """
    checks.positive("drawn", size=size)

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        _check_members("drawn", variables, size)
        keys = jax.tree.leaves(rngs)
        if not keys:
            raise ValueError(
                "drawn: needs rngs=key to draw a teacher; evaluate with an ensemble"
            )
        which = jax.random.randint(keys[0], (), 0, size)
        held = jax.tree.map(lambda leaf: leaf[which], variables)
        return network.apply(held, inputs, train=False, rngs=rngs)[0], variables

    return Network(ensemble(network, size).init, apply)


def _joined(logits: Any, features: dict[str, Any], combine: Combine | None) -> Outputs:
    if combine is None:
        return Outputs(logits, features)
    left_out = {"dropped_teachers": dropped(logits)}
    return Outputs(combine(logits), {**features, **left_out})


def _by_name(members: Any) -> dict[Any, Network]:
    if not isinstance(members, Sequence | Mapping) or not members:
        found = "none" if isinstance(members, Sequence | Mapping) else repr(members)
        raise ValueError(
            "mixture: needs at least one member, networks in a sequence or by name, "
            f"got {found}"
        )
    return dict(members if isinstance(members, Mapping) else enumerate(members))


def _check_combine(function: str, combine: Any) -> None:
    if combine is not None and not callable(combine):
        raise ValueError(
            f"{function}: combine must be a function such as mean_probabilities, or "
            f"None, got {combine!r}"
        )


def _check_alike(logits: dict[Any, Any], combine: Combine | None) -> None:
    shapes = {name: list(jax.numpy.shape(one)) for name, one in logits.items()}
    if combine is not None and len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ValueError(
            f"mixture: members to combine must have logits of one shape, got {shapes}; "
            "combine=None leaves them apart, for own_classes for instance"
        )


def _check_members(function: str, variables: Variables, size: int) -> None:
    def differs(_: str, leaf: Any) -> bool:
        return jax.numpy.shape(leaf)[:1] != (size,)

    wrong = trees.select(variables, differs)
    if wrong:
        name, leaf = next(iter(wrong.items()))
        raise ValueError(
            f"{function}: every leaf must have the leading axis [{size}] of the "
            f"stacked members (teachers.stack), but {name} has shape "
            f"{list(jax.numpy.shape(leaf))}"
        )


def _check_mixed(variables: Any, names: list[Any], named: bool) -> None:
    if named and isinstance(variables, Mapping) and set(variables) == set(names):
        return
    is_tuple = isinstance(variables, Sequence) and len(variables) == len(names)
    if not named and is_tuple:
        return
    wanted = f"a dict with {names}" if named else f"a tuple of {len(names)}"
    found = sorted(variables) if isinstance(variables, Mapping) else type(variables)
    raise ValueError(
        f"mixture: the variables must be {wanted}, one for each member; got {found} "
        "(a train step with past= gives a tuple: the given ones, the past)"
    )
