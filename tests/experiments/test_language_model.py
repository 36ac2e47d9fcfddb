"""Language models: text, what the teacher says and writes, a small real run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _field, language_model
from experiments import _language_model as lm
from experiments._options import Options
from experiments._workdir import Run
from kdjax import models, networks

TEXT = "the cat sat on the mat; the dog sat on the log. " * 120
LENGTH = 8
MODEL = models.Decoder(260, 8, 2, 1, length=LENGTH + 1)


@pytest.fixture(scope="module")
def problem():
    return lm.problem("text", TEXT, 260, LENGTH)


@pytest.fixture(scope="module")
def field(problem, tmp_path_factory):
    """A field whose teacher is not trained."""
    run = Options(workdir=tmp_path_factory.mktemp("lm") / "run")
    config = dataclasses.replace(language_model.SMOKE, run=run)
    with Run("language_model", config) as run:
        field = _field.Field(run, config, problem, kinds=1)
        network = networks.from_linen(MODEL)
        variables = network.init(jax.random.key(0), problem.example)
        field.teacher = network, variables
        yield field


def test_windows_are_the_text_and_splits_do_not_overlap(problem):
    pairs = lm.data.BytePairs.learned(TEXT[: int(0.8 * len(TEXT))], 260)
    for split, start, stop, stride in (
        ("train", 0, 0.8, LENGTH // 2),
        ("validation", 0.8, 0.9, 4 * LENGTH),
        ("test", 0.9, 1, LENGTH),
    ):
        part = TEXT[int(start * len(TEXT)) : int(stop * len(TEXT))]
        tokens, windows = pairs.encode(part), getattr(problem, split)["tokens"]
        for number in (0, 1, len(windows) - 1):
            here = number * stride
            expected = tokens[here : here + LENGTH + 1]
            np.testing.assert_array_equal(windows[number], expected)
        assert len(tokens) - (len(windows) * stride + 1) < LENGTH + stride


def test_perplexity_is_that_of_a_token(problem):
    uniform = networks.from_function(lambda w, x: jnp.zeros((*x.shape, 260)) * w)
    found = problem.figures(uniform, {"params": jnp.ones(())}, "test")
    assert found["perplexity"] == pytest.approx(260, rel=1e-4)
    assert "agreement" not in found


def test_what_is_stored_is_what_the_teacher_holds_likeliest(field):
    told = lm.ask(field)
    network, variables = field.teacher
    batch = {"tokens": jnp.asarray(told["tokens"][:4])}
    logits = network.apply(variables, lm.read(batch))[0].logits
    expected = jax.lax.top_k(jax.nn.log_softmax(logits), lm.STORED)
    np.testing.assert_allclose(told["teacher/log_probs"][:4], expected[0], atol=1e-5)
    found = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), told["teacher/ids"][:4], -1
    )
    np.testing.assert_allclose(found, expected[0], atol=1e-5)
    assert len(told["teacher/ids"]) == len(told["tokens"])


def test_the_teacher_writes_the_second_half(field):
    written = lm.sequences(field, MODEL, LENGTH)["tokens"]
    original = field.problem.train["tokens"]
    assert written.shape == original.shape
    np.testing.assert_array_equal(written[:, :4], original[:, :4])
    assert (written[:, 4:] != original[:, 4:]).mean() > 0.5
    assert len(np.unique(written[:, 4])) > 50  # one that is not trained babbles


@pytest.mark.parametrize(("part", "own"), [(0.0, 0), (1.0, 20), (0.5, None)])
def test_the_student_writes_some_batches(field, part, own):
    _, variables = field.teacher
    batch = {"tokens": jnp.zeros((2, LENGTH + 1), jnp.int32)}
    sample = jax.jit(lm.sampling(MODEL, LENGTH, part))
    made = [sample(variables, batch, jax.random.key(k))["tokens"] for k in range(20)]
    assert all((np.asarray(x)[:, :4] == 0).all() for x in made)
    written = sum(bool((np.asarray(x) != 0).any()) for x in made)
    assert written == own if own is not None else 3 < written < 17


def test_the_fused_loss_is_the_plain_one(field):
    network, variables = field.teacher
    other = network.init(jax.random.key(1), field.problem.example)
    batch = {"tokens": jnp.asarray(field.problem.train["tokens"][:2])}
    sides = [network.apply(v, lm.read(batch))[0] for v in (variables, other)]
    plain = lm.DIVERGENCES["forward-kl"](*sides, batch)["soft"]
    total, count = lm.fused(*sides, batch)["soft"]
    assert float(total / count) == pytest.approx(float(plain), rel=1e-4)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    place = tmp_path_factory.mktemp("language_model")
    (place / "cats.txt").write_text(TEXT)
    config = dataclasses.replace(
        language_model.SMOKE,
        text_file=place / "cats.txt",
        vocabulary=260,
        methods=("forward-kl", "stored", "on-policy"),
        seeds=(1,),
        steps=4,
        teacher_steps=4,
        run=Options(workdir=place / "run"),
    )
    return place / "run", language_model.main(config)


def test_a_small_run(ran):
    directory, result = ran
    names = ["teacher", "student alone", "forward-kl", "stored", "on-policy"]
    assert [row.name for row in result.rows] == names
    assert all(row.values("perplexity").max() < 600 for row in result.rows)
    assert result.title.startswith("Language model on cats")
    assert "of test perplexity" in (directory / "report.md").read_text()


def test_what_cannot_be_is_one_clear_message(command, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve".encode("latin1"))
    short = tmp_path / "short.txt"
    short.write_text("too short")
    for flags, says in (
        (["--text-file", latin], "is not UTF-8 text: byte 2 is 0xef"),
        (["--text-file", tmp_path / "none.txt"], "No such file"),
        (["--text-file", tmp_path], "Is a directory"),
        (["--text-file", short], "more than 16 tokens in each tenth, got 1"),
        (["--dataset", "mnist"], "'mnist' must have one text in each example"),
        (["--dataset", "tiny_shakespear"], "Did you mean 'tiny_shakespeare'"),
        (["--characters", "0"], "characters must be an integer >= 1, got 0"),
        (["--vocabulary", "100"], "size must be an integer from 256"),
        (["--methods", "skew", "skew"], "methods must be at least one and all diff"),
        (["--lmbda", "1.5"], "lmbda must be in [0, 1], got 1.5"),
        (["--methods", "gkd"], "'on-policy'"),
    ):
        code, _, err = command(language_model.main, language_model.SMOKE, *flags)
        assert code == 2, err
        assert says in err, err
        assert "Traceback" not in err
