"""Every public loss is documented, its example runs, its annotations are true."""

import doctest
import functools
import inspect
import sys

import beartype
import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from docs import generate
from kdjax import losses
from tests.losses.law import one_per_program
from tests.losses.programs import losses as jitted_losses
from tests.losses.programs import traced
from tests.losses.table import LAWS, NOT_ARRAYS, NOT_LOSSES

FAMILIES = [module for _, module in generate.families()]
PUBLIC = sorted(losses.__all__)
SECTIONS = ("\nArgs:\n", "\nReturns:\n", "\nRaises:\n", "\n>>> ", ".mean()", "https://")
SAID = ("Use when ", "Published weight: ")  # what docs/losses.md is made of


def test_all_is_explicit_and_complete():
    listed = [name for module in FAMILIES for name in module.__all__]
    assert sorted(listed) == sorted(set(listed)) == PUBLIC
    for module in (losses, *FAMILIES):
        functions = {
            n for n, f in vars(module).items() if inspect.isfunction(f) and n[0] != "_"
        }
        if hasattr(module, "__path__"):  # a package holds nothing but what it exports
            assert functions == set(module.__all__)
        assert functions >= set(module.__all__)


def test_every_public_name_has_a_row():
    assert {law.name for law in LAWS} | NOT_ARRAYS == set(PUBLIC)
    assert set(PUBLIC) >= NOT_LOSSES


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_all_sections(name):
    fn = getattr(losses, name)
    text = inspect.getdoc(fn)
    assert text.splitlines()[0].endswith(".")
    for section in SECTIONS:
        assert section in text, section
    for start in SAID:
        assert f"\n{start}" in text, start
    arguments = inspect.signature(fn).parameters
    for argument in arguments:
        assert f"\n  {argument}: " in text, argument


def test_the_page_of_all_losses_is_fresh():
    stale = "docs/losses.md is stale: python -m docs.generate"
    assert generate.PAGE.read_text() == generate.page(), stale
    for name in PUBLIC:
        assert f"| **`{name}`** " in generate.page()


@pytest.mark.parametrize("name", PUBLIC)
def test_example_runs_and_jit_is_eager(name):
    fn = getattr(losses, name)

    def both(*args, **settings):
        eager = fn(*args, **settings)
        jitted = getattr(jitted_losses, name)(*args, **settings)
        chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-6)
        return eager

    scope = {**vars(sys.modules[fn.__module__]), "jnp": jnp, name: both}
    [example] = doctest.DocTestFinder(recurse=False).find(fn, name, globs=scope)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("law", one_per_program(LAWS), ids=str)
def test_annotations_are_true(law):
    checked = jaxtyping.jaxtyped(
        getattr(losses, law.name), typechecker=beartype.beartype
    )
    if law.adapt is not None:
        checked = law.adapt(checked)

    def fn(*args, where=None, **hyper):  # types are checked without computing
        extra = {} if where is None else {"where": where}
        call = functools.partial(checked, **law.static, **extra)
        return jax.eval_shape(lambda *a: call(*a, **hyper), *args)

    args = [jnp.asarray(a) for a in law.draw()]
    fn(*args, **law.hyper)
    fn(*args, **traced(law))
    wrong = args[0].astype(np.float32 if args[0].dtype == np.int32 else np.int32)
    with pytest.raises(jaxtyping.TypeCheckError):
        fn(wrong, *args[1:], **law.hyper)
    if len(args) > 1:
        with pytest.raises(jaxtyping.TypeCheckError):
            fn(args[0], args[1][:-1], *args[2:], **law.hyper)
    if law.masks == "classes":
        where = jnp.asarray(np.ones(args[0].shape, bool))
        fn(*args, **law.hyper, where=where)
        with pytest.raises(jaxtyping.TypeCheckError):
            fn(*args, **law.hyper, where=where.astype(jnp.float32))
