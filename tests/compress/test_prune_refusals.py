"""What pruning refuses, and how it says so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core

from kdjax.compress import prune
from kdjax.units import Place, Units
from tests.compress.prune_table import WITH_UNITS, whole

KERNEL = jnp.array([[0.4, -3.0], [2.0, -0.2]])
SMALL = {"a": {"kernel": KERNEL, "bias": jnp.zeros(2)}}


def wrong(sparsity, **options):
    return lambda: prune.unstructured(SMALL, sparsity, **options)


OTHER = {"a": {"kernel": jnp.ones((2, 3), bool), "bias": jnp.ones(2, bool)}}
FROZEN = core.freeze(jax.tree.map(lambda x: x > 0, SMALL))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (wrong(-0.1), r"prune\.unstructured: sparsity must be in \[0, 1\], got -0\.1"),
        (wrong(1.5), r"sparsity must be in \[0, 1\], got 1\.5"),
        (wrong(float("nan")), r"sparsity must be in \[0, 1\], got nan"),
        (wrong(jnp.float32(jnp.nan)), r"sparsity must be in \[0, 1\], got nan"),
        (wrong(np.array([0.1, 0.9])), r"sparsity must be a scalar, got \[2\]"),
        (wrong(0.5, scope="row"), "scope must be layer or global, got 'row'"),
        (
            wrong(0.5, where=lambda *_: False),
            r"prune\.unstructured: no leaf takes part.*a/bias, a/kernel",
        ),
        (lambda: prune.unstructured({}, 0.5), "no leaf takes part.*of none"),
        (wrong(0.5, score=prune.random), r"prune\.random\(key\) or .*, got random"),
        (wrong(0.5, score="l1"), "score must be prune.l1, .*, got l1"),
        (
            wrong(0.5, score=lambda _, w: w[0]),
            r"unstructured: score must return floating scores \[2, 2\] of 'a/kernel', "
            r"got float32\[2\]",
        ),
        (wrong(0.5, score=lambda _, w: w > 0), r"'a/kernel', got bool\[2, 2\]"),
        (lambda: prune.random(0), r"prune\.random: key must be one, .*, got 0"),
        (lambda: Units(0, (Place("a", 0),), ()), "Units: size must be an integer >= 1"),
        (lambda: Units(3, (), (Place("a", 0),)), "Units: silenced must name"),
        (
            wrong(0.5, within=OTHER),
            r"(?s)unstructured: the mask has other.*a/kernel: tree \[2, 2\], mask "
            r"\[2, 3\]",
        ),
        (
            lambda: prune.apply(SMALL, OTHER),
            r"(?s)prune\.apply: the mask has other.*a/kernel",
        ),
        (lambda: prune.apply(SMALL, {"a": OTHER}), "(?s)a/a/kernel: tree -, mask"),
        (lambda: prune.apply(SMALL, FROZEN), r"\(containers differ\)"),
        (
            lambda: prune.sensitivity(len, SMALL, (0.5, 2.0)),
            r"prune\.sensitivity: sparsity must be in \[0, 1\], got 2\.0",
        ),
        (
            lambda: prune.sensitivity(len, SMALL, (0.5,), where=lambda *_: False),
            r"prune\.sensitivity: no leaf takes part",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


VARIABLES = {"params": {"w": jnp.ones((2, 3))}}
HALF = {"u": jnp.array([True, False, True])}


def by_hand(*place, size=3, function=prune.structured):
    units = {"u": Units(size, (Place("params/w", 1),), (Place(*place),))}
    second = HALF if function in (prune.remove, prune.silencing) else 0.5
    return lambda: function(VARIABLES, units, second)


def of_units(function, second, **options):
    units = {"u": Units(3, (Place("params/w", 1),), ())}
    return lambda: function(VARIABLES, units, second, **options)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            by_hand("params/v", 0, function=prune.remove),
            r"prune\.remove: units 'u' lie in 'params/v', but the variables have no "
            "such array; they have params/w",
        ),
        (
            by_hand("params/w", 0, function=prune.remove),
            r"'u' take the entries 0 to 2 along axis 0 of 'params/w', but its shape is "
            r"\[2, 3\]",
        ),
        (by_hand("params/w", 1, 1, function=prune.remove), "the entries 1 to 3 along"),
        (by_hand("params/w", 1, 0, 2, function=prune.remove), "the entries 0 to 5"),
        (by_hand("params/w", 2, function=prune.remove), "along axis 2 of 'params/w'"),
        (by_hand("params/w", -1, function=prune.remove), "along axis -1 of 'params/w'"),
        (by_hand("params/w", 1, -3, function=prune.remove), "the entries -3 to -1"),
        (by_hand("params/w", 1, 0, 0, function=prune.remove), "the entries 0 to -1"),
        (by_hand("params/w", 1, size=4), r"prune\.structured: .* the entries 0 to 3"),
        (of_units(prune.structured, 1.1), r"structured: sparsity must be .*got 1\.1"),
        (of_units(prune.structured, np.ones(3)), r"must be a scalar, got \[3\]"),
        (
            of_units(prune.structured, 0.5, scope="all"),
            "must be layer or.*'all'",
        ),
        (
            of_units(prune.structured, 0.5, where=lambda *_: False),
            "the units 'u' have no weights for which where= holds",
        ),
        (
            of_units(prune.silencing, {"u": jnp.ones(2, bool)}),
            r"prune\.silencing: kept must hold booleans .*\{'u': 'bool\[3\]'\}, got "
            r"\{'u': 'bool\[2\]'\}",
        ),
        (of_units(prune.remove, {}), r"prune\.remove: kept must hold.*got \{\}"),
        (of_units(prune.remove, {**HALF, "v": HALF["u"]}), r"got .*'v': 'bool\[3\]'"),
        (
            of_units(prune.remove, {"u": jnp.array([1, 0, 1])}),
            "kept must hold booleans",
        ),
        (
            lambda: prune.alive({"params": {}}, {"u": Units(3, (Place("w", 0),), ())}),
            r"prune\.alive: units 'u' lie in 'w'",
        ),
    ],
)
def test_units_that_are_not_there_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@WITH_UNITS
def test_a_network_has_no_more_than_its_units(name):
    model, layers = whole(name).row.model, whole(name).layers
    layer, units = next(iter(layers.items()))
    with pytest.raises(ValueError, match=f"no units are called 'tail', only {layer}"):
        model.narrowed({"tail": 1})
    for size in (0, -1, units.size + 1):
        with pytest.raises(ValueError, match=f"has {units.size} units .* got {size}"):
            model.narrowed({layer: size})
    smaller = model.narrowed({layer: 2})
    with pytest.raises(ValueError, match=r"has 2 units and can be narrowed to 1 to 2"):
        smaller.narrowed({layer: 3})


TX = optax.sgd(0.1)
MASK = jax.tree.map(lambda x: x > 0, SMALL)


def states(*txs):
    return lambda: prune.mask_in(optax.chain(*txs).init(SMALL))


def updated(tx, *given):
    return lambda: tx.update(SMALL, tx.init(SMALL), *given)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (states(optax.adam(0.1)), r"prune\.mask_in: the state holds 0 masks, not one"),
        (states(prune.fixed(TX, MASK), prune.fixed(TX, MASK)), "holds 2 masks"),
        (
            states(prune.fixed(prune.scheduled(TX, prune.one_shot(0.5)), MASK)),
            "holds 2 masks",
        ),
        (updated(prune.fixed(TX, MASK)), "tx.update needs the params"),
        (updated(prune.scheduled(TX, prune.one_shot(0.5))), "needs the params"),
        (
            updated(
                prune.scheduled(
                    TX, prune.cubic(0.5, start=0, stop=1), where=lambda *_: False
                ),
                SMALL,
            ),
            "no leaf takes part",
        ),
        (lambda: prune.fixed(TX, OTHER).init(SMALL), r"(?s)prune\.fixed: the mask has"),
        (lambda: prune.fixed(TX, lambda _: OTHER).init(SMALL), "the mask has other"),
        (
            lambda: prune.scheduled(TX, prune.one_shot(0.5), every=0),
            r"prune\.scheduled: every must be an integer >= 1, got 0",
        ),
        (
            lambda: prune.scheduled(TX, 0.5),
            r"such as prune\.one_shot\(0\.5\), got 0\.5",
        ),
        (
            lambda: prune.scheduled(TX, prune.one_shot(0.5), scope="net"),
            r"prune\.scheduled: scope must be layer or global, got 'net'",
        ),
        (lambda: prune.one_shot(1.5), r"prune\.one_shot: sparsity must be in .*1\.5"),
        (
            lambda: prune.iterative(-0.5, rounds=1, every=1),
            r"prune\.iterative: sparsity must be in .*-0\.5",
        ),
        (
            lambda: prune.iterative(0.5, rounds=0, every=1),
            "rounds must be an integer >= 1",
        ),
        (
            lambda: prune.iterative(0.5, rounds=1, every=0),
            "every must be an integer >= 1",
        ),
        (lambda: prune.cubic(0.5, start=5, stop=5), "cubic: stop - start must be > 0"),
        (lambda: prune.cubic(0.5, start=0, stop=5, initial=2), "initial must be in"),
        (lambda: prune.cubic(0.5, start=0, stop=5, initial=0.9), "sparsity - initial"),
    ],
)
def test_training_without_sense_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
