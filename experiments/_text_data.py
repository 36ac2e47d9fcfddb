"""Sentences of a small grammar: a text set that needs no files."""

import itertools

import numpy as np

from kdjax import data

# Part of what the set means: changing it changes every result.
_SEED = 20_170_711
_FIRST = ("", "please ", "could you ", "I want you to ")
_VERBS = ("turn", "switch")
_STATES = ("on", "off")
_THINGS = (("lamp", "light"), ("heater", "radiator"), ("radio", "music"))
_PLACES = ("", " upstairs", " in the kitchen", " of our neighbours")
_PARTS = (1200, 300, 500)


def grammar(length: int, max_words: int | None) -> data.TextTask:
    """Return requests such as "please turn the lamp off, not the radio", made here.

    The class is what is wanted of which thing, six of them; no sentence comes twice.
    """
    made = [
        (sentence, 2 * number + state)
        for number, names in enumerate(_THINGS)
        for state in range(2)
        for sentence in _requests(names, _STATES[state])
    ]
    order = np.random.default_rng(_SEED).permutation(len(made))[: sum(_PARTS)]
    rows = np.split(order, np.cumsum(_PARTS)[:-1])
    splits = [([made[i][0] for i in part], [made[i][1] for i in part]) for part in rows]
    said = (
        f"{len(made):,} sentences of a small grammar, made by the experiment and drawn "
        "without repetition: train 1,200, validation 300, test 500."
    )
    return data.TextTask.of(
        "grammar", splits, 6, said, length=length, max_words=max_words
    )


def _requests(names: tuple[str, ...], state: str) -> list[str]:
    """Return all sentences that want one thing in one state."""
    others = [one for other in _THINGS if other != names for one in other]
    ends = ("", *(f", not the {other}" for other in others))
    early = f"{state} the {{name}}{{place}}"
    late = f"the {{name}}{{place}} {state}"
    return [
        f"{first}{verb} {order.format(name=name, place=place)}{end}"
        for first, verb, order, name, place, end in itertools.product(
            _FIRST, _VERBS, (early, late), names, _PLACES, ends
        )
    ]
