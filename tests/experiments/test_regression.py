"""Numbers for answers: the figure, the objectives, a small real run."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from experiments import _regression, regression
from experiments._options import Options
from kdjax import networks
from kdjax.base import Outputs


@pytest.fixture(scope="module")
def problem():
    return _regression.problem()


def test_splits_are_all_patients_standardised_by_the_training_part(problem):
    table = load_diabetes(scaled=False)
    parts = [getattr(problem, name) for name in ("train", "validation", "test")]
    assert [len(part["target"]) for part in parts] == [264, 88, 90]
    train = problem.train
    np.testing.assert_allclose(train["row"].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train["row"].std(0), 1, atol=1e-5)
    everyone = np.concatenate([part["target"] for part in parts])
    ranks = np.sort(everyone), np.sort(table.target)
    assert np.corrcoef(*ranks)[0, 1] == pytest.approx(1, abs=1e-6)


def test_rmse_is_in_the_targets_own_units(problem):
    """A network that always says 0 says the training mean."""
    zero = networks.from_function(lambda w, row: jnp.zeros((len(row), 1)) * w)
    found = problem.figures(zero, {"params": jnp.ones(())}, "test")
    target = load_diabetes(scaled=False).target
    order = np.random.default_rng(_regression._SEED).permutation(len(target))
    mean = target[order[:264]].mean()
    expected = np.sqrt(np.square(target[order[352:]] - mean).mean())
    assert found == {"rmse": pytest.approx(expected, rel=1e-5)}
    assert problem.score({"rmse": 50.0}) > problem.score({"rmse": 60.0})


def test_the_bound_lets_go_of_students_that_are_better():
    student = Outputs(jnp.array([[1.0], [3.0]]))
    teacher = Outputs(jnp.array([[2.0], [2.0]]))
    batch = {"target": jnp.array([0.0, 0.0])}
    for margin, expected in ((0.0, 9 / 2), (3.5, (1 + 9) / 2)):
        terms = _regression.bounded(margin, 0.5)(student, teacher, batch)
        assert float(terms["soft"]) == pytest.approx(0.5 * expected)
        assert float(terms["hard"]) == pytest.approx((1 + 9) / 2)
    terms = _regression.imitating(0.25)(student, teacher, batch)
    assert float(terms["soft"]) == pytest.approx(0.25 * 1)
    assert float(terms["hard"]) == pytest.approx(0.75 * 5)


def test_a_small_run(tmp_path):
    run = Options(workdir=tmp_path / "run")
    small = {"seeds": (2,), "steps": 50, "teacher_steps": 50}
    result = regression.main(dataclasses.replace(regression.SMOKE, **small, run=run))
    names = ["teacher", "student alone", "MSE to the teacher", "bounded by the teacher"]
    assert [row.name for row in result.rows] == names
    assert all(40 < rmse < 90 for row in result.rows for rmse in row.values("rmse"))
    assert "of test RMSE" in result.text()
    assert (tmp_path / "run" / "comparison.png").exists()
    assert "rmse" in (tmp_path / "run" / "results.csv").read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataset", "wine"], "'diabetes'"),
        (["--alpha", "2"], "alpha must be in [0, 1], got 2.0"),
        (["--student-width", "0"], "student must be > 0, got 0"),
        (["--teacher-steps", "0"], "teacher_steps must be > 0, got 0"),
    ],
)
def test_what_cannot_be_is_refused(command, flags, says):
    code, _, err = command(regression.main, regression.SMOKE, *flags)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
