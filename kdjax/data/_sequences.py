"""What users did, in the order of time: split by leaving the last of each out."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from kdjax import checks

Arrays = dict[str, np.ndarray]

MAX_BYTES = 4 * 2**30
"""Of the arrays of the splits: beyond it the memory of most machines is not enough."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """What recommenders are trained and measured on, held on the host.

    Attributes:
      train: an example for each interaction in train: `user` int32 `[n]`, counted from
        0; `history` int32 `[n, length]`, the latest items before it in the order of
        time, counted from 1, behind padding of 0; and `item` int32 `[n]`, the one to
        predict, counted from 0 as the columns of scores are: item i of a history is
        column `i - 1`.
      validation: an example for each user, with the same fields and `seen` int32
        `[users, most]`, all items before it in any order, counted as in a history.
      test: the same, one item later.
      users: how many.
      items: how many.
      splits: sentences that say how the splits were made.
    """

    train: Arrays
    validation: Arrays
    test: Arrays
    users: int
    items: int
    splits: str


def leave_one_out(
    rated: Mapping[str, np.ndarray],
    *,
    length: int = 20,
    core: int = 5,
    least: float | None = None,
) -> Sequences:
    """Return the sequences of users: the last item tests, the one before validates.

    Users and items with fewer than `core` interactions are dropped until none is left
    (the k-core). Each user's interactions are sorted by time, and by item where that is
    the same; where an item comes twice, only the first counts.

    Args:
      rated: `user`, `item`, `rating` and `time`, each `[n]`, as `ratings.read` returns
        them.
      length: of the histories.
      core: the fewest interactions of a user and of an item, 3 or more.
      least: what a rating must be to count as an interaction; None counts all.

    Returns:
      The `Sequences`; nothing in it is random.

    Raises:
      ValueError: if a number is not as above, if no user is left, or if the arrays
        would take more than `MAX_BYTES`.

    Source: the protocol of Kang and McAuley, "Self-attentive sequential
    recommendation", https://arxiv.org/abs/1808.09781 (2018).

    >>> each, twice = np.arange(3), np.arange(3).repeat(3)
    >>> rated = {"user": twice, "item": np.tile(each, 3), "time": np.arange(9)}
    >>> split = leave_one_out({**rated, "rating": np.ones(9)}, length=2, core=3)
    >>> split.test["history"].tolist(), split.test["item"].tolist()
    ([[1, 2], [1, 2], [1, 2]], [2, 2, 2])
    """
    checks.integer("leave_one_out", 1, length=length)
    checks.integer("leave_one_out", 3, core=core)
    rating = np.asarray(rated["rating"])
    kept = np.ones(len(rating), bool) if least is None else rating >= least
    user, item, time = (np.asarray(rated[k])[kept] for k in ("user", "item", "time"))
    user, item = _in_order(user, item, time)
    user, item = _core(user, item, core)
    if not len(user):
        raise ValueError(
            f"leave_one_out: no user is left of {len(np.unique(rated['user'])):,} with "
            f"{len(rated['user']):,} ratings, {kept.sum():,} of which count (least = "
            f"{least}): each must have {core} interactions with items that have {core} "
            "themselves (core, 3 or more); lower them or give more ratings"
        )
    told = _told(len(rated["user"]), user, item, length, core, least)
    return _split(user, item, length, told)


def _in_order(
    user: np.ndarray, item: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return interactions by user and time, without those that come again."""
    order = np.lexsort((item, time, user))
    user, item = user[order], item[order]
    _, first = np.unique(np.stack([user, item]), axis=1, return_index=True)
    first.sort()
    return user[first], item[first]


def _core(
    user: np.ndarray, item: np.ndarray, core: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is left of interactions when nobody has too few, numbered from 0."""
    before = -1
    while before != len(user):
        before = len(user)
        for side in (0, 1):
            _, number, count = np.unique(
                (user, item)[side], return_inverse=True, return_counts=True
            )
            kept = count[number] >= core
            user, item = user[kept], item[kept]
    numbers = (np.unique(x, return_inverse=True)[1] for x in (user, item))
    user, item = (x.astype(np.int32) for x in numbers)
    return user, item


def _told(
    given: int,
    user: np.ndarray,
    item: np.ndarray,
    length: int,
    core: int,
    least: float | None,
) -> str:
    users, items = user[-1] + 1, item.max() + 1
    what = "Every rating" if least is None else f"A rating of at least {least:g}"
    return (
        f"{what} is an interaction, whatever its value; users and items with fewer "
        f"than {core} are dropped until none is left: of {given:,} ratings that leaves "
        f"{len(user):,}, by {users:,} users of {items:,} items. Each user's last "
        "interaction is test, the one before is validation, the others are train "
        f"({len(user) - 2 * users:,}); each is predicted from those before it, at most "
        f"the latest {length}. All items are ranked but those that the user had "
        "before. Users are cut each at a time of their own, so what others did later "
        "is in train."
    )


def _split(user: np.ndarray, item: np.ndarray, length: int, told: str) -> Sequences:
    count = np.bincount(user)
    start, most = np.cumsum(count) - count, int(count.max()) - 1
    size = 4 * (len(user) * (length + 2) + 2 * len(count) * most)
    if size > MAX_BYTES:
        raise ValueError(
            f"leave_one_out: the splits take {size / 2**30:.0f} GiB, and the limit is "
            f"{MAX_BYTES / 2**30:.0f} GiB; give a smaller length or a larger core"
        )

    def before(rows: np.ndarray, width: int) -> np.ndarray:
        """Return the items before these rows, padded with 0 in front."""
        place = rows[:, None] + np.arange(-width, 0)[None]
        own = place >= start[user[rows]][:, None]
        return np.where(own, item[np.maximum(place, 0)] + 1, 0).astype(np.int32)

    def examples(rows: np.ndarray) -> Arrays:
        return {
            "user": user[rows],
            "history": before(rows, length),
            "item": item[rows],
        }

    end = start + count
    held_out = np.zeros(len(user), bool)
    held_out[end - 1] = held_out[end - 2] = True
    train, validation, test = np.flatnonzero(~held_out), end - 2, end - 1
    return Sequences(
        examples(train),
        {**examples(validation), "seen": before(validation, most)},
        {**examples(test), "seen": before(test, most)},
        users=len(count),
        items=int(item.max()) + 1,
        splits=told,
    )
