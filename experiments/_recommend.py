"""Recommending: flags, data, full rankings, what a teacher ranks first, objectives."""

import dataclasses
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments import _field
from experiments._problem import Arrays, Problem, asked
from kdjax import checks, data, losses, metrics
from kdjax.base import Batch, Network, Outputs, Variables
from kdjax.models import Factorization, SequentialRecommender

MADE = "made"


@dataclasses.dataclass(frozen=True)
class Config(_field.Config):
    """Ratings, recommenders and lists."""

    dataset: str = "movietweetings"
    """"movietweetings", ratings of TFDS such as "movielens/100k-ratings", or "made":
    by the experiment itself."""
    ratings: Path | None = None
    """Read this file in the place of a data set: lines user::item::rating::time."""
    least_rating: float | None = None
    """What a rating must be to count as an interaction; by default all do."""
    core: int = 5
    """The fewest interactions of a user and of an item, 3 or more."""
    length: int = 20
    """How many of a user's latest items are read."""
    seeds: tuple[int, ...] = (5,)
    steps: int = 1000
    batch_size: int = 128
    learning_rates: tuple[float, ...] = (1e-2, 3e-2, 1e-1)
    teacher_steps: int = 1500
    teacher_learning_rate: float = 3e-3
    teacher_width: int = 64
    """Channels of the teacher."""
    teacher_dropout: float = 0.3
    """Part of the teacher's channels dropped in training."""
    student_width: int = 8
    """Channels of the students, and factors of those that factorise."""
    ranked: int = 10
    """Places of the teacher's list that ranking distillation learns from."""
    ranked_alpha: float = 0.5
    """Its weight in [0, 1]; what users chose weighs the rest."""
    listed: int = 100
    """Places of the teacher's list that listwise KL compares."""
    listed_alpha: float = 0.9
    """Its weight in [0, 1]; what users chose weighs the rest."""
    temperature: float = 1.0
    """T of the listwise KL."""

    def checked(self) -> Self:
        """Return it.

        Raises:
          ValueError: for a number that cannot be.
        """
        for name in ("teacher_width", "student_width", "temperature"):
            checks.positive("config", **{name: getattr(self, name)})
        for name in ("teacher_dropout", "ranked_alpha", "listed_alpha"):
            checks.fraction("config", **{name: getattr(self, name)})
        checks.integer("config", 1, listed=self.listed, length=self.length)
        checks.integer("config", 1, self.listed, ranked=self.ranked)
        return super().checked()

    @property
    def name(self) -> str:
        """What the ratings are called."""
        return self.ratings.name if self.ratings else self.dataset

    @property
    def said(self) -> str:
        """What the title of the table calls them."""
        made = self.dataset == MADE and not self.ratings
        return "ratings that it makes itself" if made else self.name

    def sequences(self) -> data.ratings.Sequences:
        """Return what users did, split."""
        if self.ratings:
            rated = data.ratings.read(self.ratings)
        elif self.dataset == MADE:
            rated = made()
        else:
            rated = data.ratings.load(self.dataset, data_dir=self.run.data_dir)
        settings = {"core": self.core, "least": self.least_rating}
        return data.ratings.leave_one_out(rated, length=self.length, **settings)

    def recommender(
        self, split: data.ratings.Sequences, width: int, **settings: Any
    ) -> Any:
        """Return a module that reads a user's history."""
        size = {"items": split.items, "width": width, "length": self.length}
        return Reader("history", SequentialRecommender(**size, **settings))

    def factorization(self, split: data.ratings.Sequences) -> Any:
        """Return a student that knows a user's number only."""
        return Reader(
            "user", Factorization(split.users, split.items, self.student_width)
        )


def made(users: int = 96, items: int = 60, each: int = 16) -> Arrays:
    """Return ratings by users who walk on a ring of items, now and then jumping."""
    draw = np.random.default_rng(20_181_120)
    far = draw.integers(items, size=(users, each))
    jumps = np.where(draw.random((users, each)) < 0.2, far, 1)
    item = (draw.integers(items, size=(users, 1)) + jumps.cumsum(1)) % items
    return {
        "user": np.arange(users).repeat(each),
        "item": item.ravel(),
        "rating": np.ones(users * each, np.float32),
        "time": np.tile(np.arange(each), users),
    }


class Reader(nn.Module):
    """A recommender that reads one field of what is known of users.

    Args:
      field: its name.
      model: the recommender.
    """

    field: str
    model: nn.Module

    @nn.compact
    def __call__(self, inputs: Batch, train: bool = False) -> Outputs:
        """Return what the recommender says."""
        return self.model(inputs[self.field], train=train)


def known(batch: Batch) -> dict[str, Any]:
    """Return what a recommender may read of users."""
    return {"user": batch["user"], "history": batch["history"]}


def problem(name: str, split: data.ratings.Sequences) -> Problem:
    """Return the task to rank what a user takes next before all other items."""

    def measure(outputs: Outputs, batch: Batch) -> dict[str, Any]:
        new = ~_mask(batch["seen"], split.items)
        ranks = metrics.ranks(outputs.logits, batch["item"], where=new)
        return {
            "hit_rate": metrics.hit_rate(ranks),
            "ndcg": metrics.ndcg(ranks),
            "mrr": metrics.reciprocal_rank(ranks),
        }

    one = {name: jnp.asarray(array[:1]) for name, array in split.train.items()}
    return Problem(
        name,
        split.train,
        split.validation,
        split.test,
        splits=split.splits,
        example=known(one),
        inputs=known,
        measure=measure,
        figure="ndcg",
    )


def _mask(seen: Any, items: int) -> Any:
    """Return `[batch, items]` booleans, True at the items that were seen."""
    rows = jnp.arange(len(seen))[:, None]
    marked = jnp.zeros((len(seen), items + 1), bool).at[rows, seen].set(True)
    return marked[:, 1:]  # without padding


def with_lists(
    problem: Problem, teacher: tuple[Network, Variables], places: int
) -> Arrays:
    """Return what to train on, with what a teacher ranks first at each example.

    It ranks items that the user has nowhere in train: what the user has is learned from
    the user. The examples are the same at each epoch, so it is asked once.
    """
    network, variables = teacher
    seen, train = problem.validation["seen"], problem.train

    @jax.jit
    def first(variables: Variables, batch: Batch, seen: Any) -> Any:
        scores = network.apply(variables, known(batch))[0].logits
        left = jnp.where(_mask(seen, scores.shape[1]), -jnp.inf, scores)
        return jax.lax.top_k(left, places)

    train = {**train, "seen": seen[train["user"]]}
    scores, items = asked(train, lambda batch: first(variables, batch, batch["seen"]))
    return {**train, "listed": items.astype(np.int32), "listed_scores": scores}


def check_lists(split: data.ratings.Sequences, places: int) -> None:
    """Raise ValueError if a user has too few items left for a list."""
    left = split.items - (split.validation["seen"] > 0).sum(1).max()
    if left < places:
        raise ValueError(
            "config: listed must leave a list for users who have most items, "
            f"{left} are left for one, got {places}"
        )


def chosen(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn from what users chose, among all items."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    return {"hard": loss(student.logits, batch["item"]).mean()}


def ranking(config: Config) -> Any:
    """Return ranking distillation beside what users chose."""

    def objective(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
        scores = _log_odds(student.logits)
        first = batch["listed"][:, : config.ranked]
        ranked = jnp.take_along_axis(scores, first, axis=1)
        # places are counted among the items that the teacher ranked, too
        seen = _mask(batch["seen"], scores.shape[1])
        rivals = jnp.where(seen, jnp.finfo(scores.dtype).min, scores)
        soft = losses.ranking_distillation(
            rivals, ranked, position_temperature=config.ranked
        )
        return _beside(config.ranked_alpha, soft, student, batch)

    return objective


def _log_odds(scores: Any) -> Any:
    """Return `log p − log(1 − p)` of the softmax p.

    Ranking distillation reads a score as the log-odds of a choice. Scores that are
    trained with a softmax mean nothing until they are normalised: it could be met by
    adding one number to all of them.
    """
    log_p = jnp.minimum(jax.nn.log_softmax(scores), -1e-6)  # of certainty it is finite
    return log_p - jnp.log(-jnp.expm1(log_p))


def listwise(config: Config) -> Any:
    """Return listwise KL beside what users chose."""

    def objective(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
        scores = jnp.take_along_axis(student.logits, batch["listed"], axis=1)
        soft = losses.listwise_kl(
            scores, batch["listed_scores"], temperature=config.temperature
        )
        return _beside(config.listed_alpha, soft, student, batch)

    return objective


def _beside(alpha: float, soft: Any, student: Outputs, batch: Batch) -> dict[str, Any]:
    hard = chosen(student, None, batch)["hard"]
    return {"soft": alpha * soft.mean(), "hard": (1 - alpha) * hard}


def notes(config: Config) -> list[str]:
    """Return what the reader of the table must know."""
    return [
        f"The teacher's list of a training example is its {config.listed} best of what "
        f"the user has nowhere in train. Ranking distillation: {config.ranked_alpha:g} "
        f"of the first {config.ranked} places, whose weight falls by e over as many, "
        "read as log-odds of the softmax; KL: "
        f"{config.listed_alpha:g} of them all at T = {config.temperature:g}. What the "
        "user chose weighs the rest, by cross-entropy over all items; the teacher and "
        "those alone learn from that only.",
        "Latency and FLOPs: the scores of all items for one user.",
    ]
