"""Recommending: objectives, teachers' lists, and the experiment as a call."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from experiments import _recommend, recommend
from experiments._options import Options
from kdjax import data, networks
from kdjax.base import Outputs

SMOKE = dataclasses.replace(
    recommend.SMOKE, seeds=(1,), steps=25, teacher_steps=25, listed=12
)
NAMES = [
    "teacher",
    "student alone",
    "ranking distillation",
    "listwise KL",
    "factorization alone",
    "factorization, KL",
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend") / "run"
    config = dataclasses.replace(SMOKE, run=Options(workdir=folder))
    return folder, recommend.main(config)


def test_the_table_compares_students_at_equal_budgets(ran):
    folder, result = ran
    assert [row.name for row in result.rows] == NAMES
    assert "ratings that it makes itself" in result.title
    pairs = {(gain.better, gain.than): gain.figure for gain in result.gains}
    assert pairs == {
        ("ranking distillation", "student alone"): "ndcg",
        ("listwise KL", "student alone"): "ndcg",
        ("factorization, KL", "factorization alone"): "ndcg",
    }
    students = result.rows[1:]
    assert len({row.seeds[0]["sha256"] for row in students}) == 5
    for row in students:
        assert [seed["seed"] for seed in row.seeds] == [0]
    for row in result.rows:
        hits, gains, ranks = (row.values(x) for x in ("hit_rate", "ndcg", "mrr"))
        assert ((gains > 0) & (gains <= hits) & (hits <= 1)).all()
        assert (ranks >= gains / np.log2(11)).all()
    parameters = [row.cost["parameters"] for row in result.rows]
    assert parameters[1] == parameters[2] == parameters[3] < parameters[0]
    assert parameters[4] == parameters[5]
    text = (folder / "report.md").read_text()
    for told in ("1,536 ratings", "for one user", "HR@10 %", "NDCG@10 %", "MRR %"):
        assert told in text


@pytest.fixture(scope="module")
def split():
    return SMOKE.sequences()


def test_made_ratings_are_walks_on_a_ring(split):
    assert (split.users, split.items) == (96, 60)
    last, item = split.train["history"][:, -1], split.train["item"]
    follows = (item == last % 60)[last > 0]
    assert 0.7 < follows.mean() < 0.95


class Fixed:
    """A teacher that scores items alike for all, or by a user's own number."""

    def __init__(self, scores):
        network = networks.from_function(lambda params, x: params[x["user"]])
        self.pair = network, {"params": jnp.asarray(scores)}


def test_lists_are_the_best_of_what_is_not_in_train(split):
    problem = _recommend.problem("made", split)
    scores = np.random.default_rng(0).normal(size=(96, 60)).astype(np.float32)
    train = _recommend.with_lists(problem, Fixed(scores).pair, places=7)
    count = len(split.train["item"])
    assert {k: v.shape for k, v in train.items()} == {
        "user": (count,),
        "history": (count, 6),
        "item": (count,),
        "seen": (count, split.validation["seen"].shape[1]),
        "listed": (count, 7),
        "listed_scores": (count, 7),
    }
    for row in (0, 500, count - 1):
        user = train["user"][row]
        had = set(split.train["item"][split.train["user"] == user])
        order = [i for i in np.argsort(-scores[user]) if i not in had][:7]
        assert train["listed"][row].tolist() == order
        np.testing.assert_array_equal(train["listed_scores"][row], scores[user][order])
    with pytest.raises(ValueError, match=r"4\d are left for one, got 50"):
        _recommend.check_lists(split, 50)


def test_figures_are_of_all_items_that_a_user_has_not_had(split):
    problem = _recommend.problem("made", split)
    scores = np.random.default_rng(1).normal(size=(96, 60)).astype(np.float32)
    network, variables = Fixed(scores).pair
    found = problem.figures(network, variables, "test")
    ranks = []
    for user in range(96):
        had = {*split.train["item"][split.train["user"] == user]}
        had.add(split.validation["item"][user])
        item = split.test["item"][user]
        left = [i for i in range(60) if i not in had]
        ranks.append(1 + sum(scores[user][i] > scores[user][item] for i in left))
    ranks = np.array(ranks)
    assert found["hit_rate"] == pytest.approx((ranks <= 10).mean(), rel=1e-5)
    gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean()
    assert found["ndcg"] == pytest.approx(gains, rel=1e-5)
    assert found["mrr"] == pytest.approx((1 / ranks).mean(), rel=1e-5)


def test_objectives_equal_numpy():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3, 15)) * 2
    listed = np.stack([rng.permutation(15)[:6] for _ in range(3)])
    told = -np.sort(-rng.normal(size=(3, 6)))
    item = rng.integers(15, size=3)
    config = dataclasses.replace(
        SMOKE, ranked_alpha=0.3, listed_alpha=0.6, ranked=4, temperature=2.0
    )
    seen = np.array([[0, 3], [0, 0], [15, 1]])  # numbered from 1; 0 is padding
    batch = {"item": item, "listed": listed, "listed_scores": told, "seen": seen}
    batch = {
        k: jnp.asarray(v, jnp.float32 if v.dtype == float else None)
        for k, v in batch.items()
    }
    student = Outputs(jnp.asarray(scores, jnp.float32))

    kinds = _recommend.chosen, _recommend.ranking(config), _recommend.listwise(config)
    said = jax.jit(lambda *given: [kind(*given) for kind in kinds])
    alone, ranked, compared = said(student, None, batch)

    log_p = log_softmax(scores, -1)
    hard = -log_p[np.arange(3), item].mean()
    assert alone == {"hard": pytest.approx(hard, rel=1e-5)}

    first = np.take_along_axis(log_p, listed[:, :4], 1)
    place = np.arange(1, 5)
    position = np.exp(-place / 4) / np.exp(-place / 4).sum()
    rivals = log_p.copy()
    rivals[0, 2] = rivals[2, 14] = rivals[2, 0] = -np.inf
    rank = 1 + (rivals[:, None] > first[:, :, None]).sum(-1)
    weight = position * np.tanh(np.maximum(0.1 * (rank - place), 0))
    soft = (weight * -first).sum(1).mean()
    assert ranked["soft"] == pytest.approx(0.3 * soft, rel=1e-4)
    assert ranked["hard"] == pytest.approx(0.7 * hard, rel=1e-5)

    q = log_softmax(np.take_along_axis(scores, listed, 1) / 2, -1)
    p = log_softmax(told / 2, -1)
    soft = 4 * (np.exp(p) * (p - q)).sum(1).mean()
    assert compared["soft"] == pytest.approx(0.6 * soft, rel=1e-4)
    assert compared["hard"] == pytest.approx(0.4 * hard, rel=1e-5)


def test_ranking_distillation_is_finite_where_the_student_is_certain():
    batch = {"item": jnp.zeros(1, int), "listed": jnp.array([[0, 1]])}
    batch["seen"] = jnp.zeros((1, 1), int)
    config = dataclasses.replace(SMOKE, ranked=2)

    def loss(scores):
        terms = _recommend.ranking(config)(Outputs(scores), None, batch)
        return terms["soft"] + terms["hard"]

    slopes = jax.jit(jax.value_and_grad(loss))
    for scores in (jnp.array([[1e4, 0.0, 0.0]]), jnp.zeros((1, 3))):
        value, slope = slopes(scores)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ranked-alpha", "2"], "ranked_alpha must be in [0, 1], got 2.0"),
        (["--ranked", "13"], "ranked must be an integer from 1 to 12, got 13"),
        (["--listed", "0"], "listed must be an integer >= 1, got 0"),
        (["--length", "0"], "length must be an integer >= 1, got 0"),
        (["--student-width", "0"], "student_width must be > 0, got 0"),
        (["--temperature", "0"], "temperature must be > 0, got 0.0"),
        (["--core", "2"], "core must be an integer >= 3, got 2"),
        (["--core", "40"], "no user is left of 96"),
        (["--least-rating", "2"], "no user is left of 96 with 1,536 ratings, 0 of"),
        (["--ratings", "nowhere.dat"], "nowhere.dat cannot be read: No such file"),
        (["--dataset", "movietweet"], "no data set 'movietweet'. Did you mean"),
        (["--seeds", "1", "1"], "seeds must be at least one and all different"),
    ],
)
def test_what_cannot_be_is_refused(command, flags, says):
    code, _, err = command(recommend.main, SMOKE, *flags)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_files_that_hold_no_ratings_are_refused(command, tmp_path):
    for text, says in (
        ("", "ratings.dat is empty"),
        ("1::2::3::4\n1,2,3,4\n", "ratings.dat, line 2: must be user::item"),
        ("1::2::3::4\n", "no user is left of 1 with 1 ratings"),
    ):
        (tmp_path / "ratings.dat").write_text(text)
        code, _, err = command(recommend.main, SMOKE, "--ratings", "ratings.dat")
        assert code == 2
        assert says in err


def test_a_file_takes_the_place_of_a_data_set(tmp_path):
    rated = _recommend.made()
    columns = (x.tolist() for x in rated.values())
    lines = ("::".join(map(str, row)) for row in zip(*columns, strict=True))
    file = tmp_path / "mine.dat"
    file.write_text("\n".join(lines))
    config = dataclasses.replace(SMOKE, ratings=file)
    assert config.name == config.said == "mine.dat"
    split = config.sequences()
    for key, array in SMOKE.sequences().train.items():
        np.testing.assert_array_equal(array, split.train[key])
    with pytest.raises(data.Unavailable):
        dataclasses.replace(SMOKE, dataset="no such").sequences()
