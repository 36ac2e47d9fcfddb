"""The few compiled programs that the laws share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import kdjax.losses


def weights(shape):
    """Unequal weights of the values, so that no gradient can hide in a sum."""
    return 1.0 + 0.25 * np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


# What conftest turns off for all tests, to compile sooner.
AS_USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""Compiler options for what depends on how the machine code is made."""


@functools.cache
def _one_call(name, tree, constants):
    def call(arrays):
        leaves = [
            array if constant is None else constant[0]
            for array, constant in zip(arrays, constants, strict=True)
        ]
        args, settings = jax.tree.unflatten(tree, leaves)
        return getattr(kdjax.losses, name)(*args, **settings)

    return jax.jit(call)


class _Quick:
    """`kdjax.losses` where every call is one program.

    Operation by operation, a loss would compile dozens of them.
    """

    def __getattr__(self, name):
        def call(*args, **settings):
            leaves, tree = jax.tree.flatten((args, settings))
            if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                return getattr(kdjax.losses, name)(*args, **settings)
            arrays = [leaf if hasattr(leaf, "shape") else None for leaf in leaves]
            constants = tuple(
                (leaf, type(leaf)) if array is None else None  # 1 is not True
                for array, leaf in zip(arrays, leaves, strict=True)
            )
            return _one_call(name, tree, constants)(arrays)

        return call


losses = _Quick()


@functools.cache
def _program(fn, floats, static, quick):
    """Return `(args, hyper, extra, cotangent) -> (values, gradients)`, jitted."""

    def evaluate(args, hyper, extra, cotangent):
        def call(moving, hyper):
            moved = list(args)
            for position, array in zip(floats, moving, strict=True):
                moved[position] = array
            return fn(*moved, **hyper, **dict(static), **extra)

        moving = [args[position] for position in floats]
        values, pull = jax.vjp(call, moving, hyper)
        chosen = weights(values.shape) if cotangent is None else cotangent
        by_args, by_hyper = pull(jnp.asarray(chosen, values.dtype))
        return values, by_args, by_hyper

    return jax.jit(evaluate, compiler_options=None if quick else AS_USERS)


def traced(law, dtype=None):
    """Return the hyper-parameters as arrays."""
    return {k: jnp.asarray(v, dtype or jnp.float32) for k, v in law.hyper.items()}


def evaluate(law, args, hyper=None, quick=False, cotangent=None, **extra):
    """Return values, gradients by the float arrays and by the hyper-parameters.

    The gradients are those of the values' sum under `cotangent`, or `weights`.
    """
    static = tuple(law.static.items())
    program = _program(law.fn, law.floats, static, quick or law.quick)
    values, by_args, by_hyper = program(args, hyper or traced(law), extra, cotangent)
    return np.asarray(values), [np.asarray(g) for g in by_args], by_hyper


def evaluate_x64(law, args):
    """Return the same in float64."""
    with jax.enable_x64(True):
        wide = tuple(a.astype(np.float64) if a.dtype == np.float32 else a for a in args)
        return evaluate(law, wide, traced(law, jnp.float64), quick=True)


def assert_close(actual, expected, rtol):
    """Compare relative to the largest expected entry, as gradients need."""
    scale = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)
