"""Errors as the paper counts them: constrained weights, a digit left out, its bias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import _mnist, mnist
from experiments._options import Options
from kdjax import data, networks
from kdjax.teachers import cache


@pytest.fixture(scope="module")
def problem():
    return _mnist.problem(data.load("digits"))


def test_errors_are_counted(problem):
    """A network that always says 3 is right on the 3s alone, one that says 1 never."""
    label = problem.test["label"]
    for said, on_threes in ((3, 0), (1, (label == 3).sum())):
        logits = jnp.eye(10)[said]
        network = networks.from_function(
            lambda w, x, row=logits: jnp.tile(row[None] * w, (len(x), 1))
        )
        found = problem.figures(network, {"params": jnp.ones(())}, "test")
        assert found["errors"] == (label != said).sum()
        assert found["absent_errors"] == on_threes
    assert problem.score({"errors": 70}) > problem.score({"errors": 71})


def test_no_unit_has_longer_weights_than_the_limit():
    rng = np.random.default_rng(0)
    params = {
        "dense1": {"kernel": rng.normal(size=(5, 4)), "bias": 9 * np.ones(4)},
        "head": {"kernel": 9 * rng.normal(size=(4, 3)), "bias": np.zeros(3)},
    }
    params = jax.tree.map(jnp.asarray, params)
    gradient = jax.tree.map(jnp.ones_like, params)
    plain, tx = optax.sgd(0.5), _mnist.max_norm(2.2)(optax.sgd(0.5))
    updates, _ = tx.update(gradient, tx.init(params), params)
    free, _ = plain.update(gradient, plain.init(params), params)
    found, moved = (optax.apply_updates(params, u) for u in (updates, free))
    kernel = np.asarray(moved["dense1"]["kernel"])
    length = np.linalg.norm(kernel, axis=0)
    assert (length > 2.2).any()
    assert (length < 2.2).any()
    expected = kernel * np.minimum(1, 2.2 / length)
    np.testing.assert_allclose(found["dense1"]["kernel"], expected, atol=1e-6)
    np.testing.assert_array_equal(found["dense1"]["bias"], moved["dense1"]["bias"])
    np.testing.assert_allclose(found["head"]["kernel"], moved["head"]["kernel"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mnist") / "run"
    seen = []
    taught = cache.taught

    def noted(objective):
        def with_labels(student, teacher, batch):
            terms = taught(objective)(student, teacher, batch)
            threes = (batch["label"] == _mnist.ABSENT).sum()
            jax.debug.callback(lambda n: seen.append(int(n)), threes)
            return terms

        return with_labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_mnist.cache, "taught", noted)
        run = Options(workdir=directory)
        small = {"steps": 50, "teacher_steps": 100, "jittered_steps": 50}
        result = mnist.main(dataclasses.replace(mnist.SMOKE, **small, run=run))
        jax.effects_barrier()
    return directory, result, seen


def test_a_small_run(ran):
    directory, result, _ = ran
    assert [row.name for row in result.rows] == [
        "teacher",
        "student alone",
        "distilled",
        "distilled, no 3s",
        "no 3s, bias raised",
        "alone, jittered",
        "distilled, jittered",
        "distilled, no 3s, jittered",
        "no 3s, jittered, bias raised",
        "8 units alone",
        "8 units, T = 4",
    ]
    assert all(row.values("errors").max() <= 497 for row in result.rows)
    text = (directory / "report.md").read_text()
    assert "chosen on the validation split" in text
    assert "51 of them 3s" in text


def test_the_transfer_set_lacks_the_digit(ran):
    """One of the three kinds that the teacher taught saw no 3, the others many."""
    _, _, threes = ran
    assert len(threes) == 3 * 2 * 50
    assert threes.count(0) == 2 * 50


def test_a_raised_bias_wins_the_digit_back(ran):
    _, result, _ = ran
    named = {row.name: row for row in result.rows}
    lacking, raised = named["distilled, no 3s"], named["no 3s, bias raised"]
    assert raised.values("absent_errors").sum() < lacking.values("absent_errors").sum()


def test_what_a_teacher_says_is_asked_once_for_every_image(problem):
    network = networks.from_linen(_mnist.MLP(10, 4))
    images = {"image": problem.train["image"][:700]}
    variables = network.init(jax.random.key(0), problem.example)
    said = _mnist.ask(network, variables, images, problem.transform)
    seen = problem.transform(None, {"image": jnp.asarray(images["image"])})["image"]
    expected = jax.nn.log_softmax(network.apply(variables, seen)[0].logits)
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_what_cannot_be_is_refused(command):
    for flags, says in (
        (["--max-norm", "0"], "max_norm must be > 0"),
        (["--temperature", "-1"], "temperature must be > 0, got -1.0"),
        (["--temperatures", "2", "0"], "temperatures must be > 0, got 0"),
        (["--widths", "8", "8"], "widths must be at least one and all different"),
        (["--jittered-steps", "-1"], "jittered_steps must be an integer >= 0"),
        (["--dataset", "mnist", "--data-dir", "none"], "not prepared in none"),
    ):
        code, _, err = command(mnist.main, mnist.SMOKE, *flags)
        assert code == 2
        assert says in err
        assert "Traceback" not in err
