"""Text for language models, and the ways to follow one that is larger."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _problem
from experiments._field import Field
from experiments._problem import Arrays, Problem
from kdjax import checks, data, losses, metrics, report
from kdjax.base import Batch, Outputs, Variables
from kdjax.models import Decoder, generate
from kdjax.objectives import Objective

PYTHON = "python-topics"
"""The text that comes with Python, under Python's licence: what help() knows."""
STORED = 16
"""Tokens that are kept of what the teacher says of each, for the top-k row."""


def read(batch: Batch) -> Any:
    """Return what networks read: all tokens but the last of each window."""
    return batch["tokens"][:, :-1]


def following(batch: Batch) -> Any:
    """Return what comes after each token that is read."""
    return batch["tokens"][:, 1:]


def text_of(config: Any) -> tuple[str, str]:
    """Return a name and a text, or its first characters: of a file, else a data set.

    Raises:
      ValueError: if the file cannot be read, or is no UTF-8 text.
      Unavailable: if there is no such set, or this Python brings no text.
    """
    name, path, characters = config.dataset, config.text_file, config.characters
    if characters is not None:
        checks.integer("config", 1, characters=characters)
    if path is not None:
        return path.stem, _of_file(path)[:characters]
    if name == PYTHON:
        return name, _of_python()[:characters]
    return name, data.plain_text(name, data_dir=config.run.data_dir)[:characters]


def _of_python() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise data.Unavailable(
            "language_model: this Python has no pydoc_data.topics, the text that is "
            "taken by default; give one with --text-file, or a set with --dataset"
        ) from error
    return "\n\n".join(topics[name] for name in sorted(topics))


def _of_file(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"text_file: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text_file: {path} is not UTF-8 text: byte {error.start} is "
            f"0x{error.object[error.start]:02x}. Convert it first, for example: "
            f"iconv -f latin1 -t utf8 {path} > converted.txt"
        ) from error


def _windows(tokens: np.ndarray, length: int, stride: int) -> Arrays:
    starts = np.arange(0, len(tokens) - length, stride)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
    return {"tokens": windows[starts].astype(np.int32)}


def _measure(outputs: Outputs, batch: Batch) -> dict[str, Any]:
    nll = metrics.negative_log_likelihood(outputs.logits, following(batch))
    return {"negative_log_likelihood": nll.mean(axis=1)}


def _finished(means: dict[str, Any], _: int) -> dict[str, float]:
    return {**means, "perplexity": float(np.exp(means["negative_log_likelihood"]))}


def problem(name: str, text: str, vocabulary: int, length: int) -> Problem:
    """Return a text as windows of tokens; its vocabulary is of the training part.

    Raises:
      ValueError: if the text is too short for one window in each part.
    """
    cuts = [0, int(0.8 * len(text)), int(0.9 * len(text)), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
    pairs = data.BytePairs.learned(parts[0], vocabulary)
    tokens = [pairs.encode(part) for part in parts]
    if min(map(len, tokens)) <= length:
        raise ValueError(
            f"config: the text must have more than {length} tokens in each tenth, "
            f"got {min(map(len, tokens))}; give a longer one, or a smaller --length"
        )
    strides = length // 2, 4 * length, length  # validation is looked at often
    train, validation, test = map(_windows, tokens, [length] * 3, strides)
    return Problem(
        name,
        train,
        validation,
        test,
        splits=(
            f"{len(text):,} characters in a row: train the first 80 %, validation the "
            "next 10 %, a fourth of it, test the last 10 %. "
            f"{pairs.size} tokens (byte pairs of the training part), "
            f"{len(text) / sum(map(len, tokens)):.2f} characters each; windows of "
            f"{length}. Perplexity is that of a token."
        ),
        example=jnp.zeros((1, length), jnp.int32),
        tokens=length,
        inputs=read,
        measure=_measure,
        answer=_problem.likeliest,
        finished=_finished,
        figure="perplexity",
    )


def labels(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn from the text alone."""
    nll = metrics.negative_log_likelihood(student.logits, following(batch))
    return {"text": nll.mean()}


def divergence(loss: Callable[..., Any]) -> Objective:
    """Return a divergence of the distributions of every token."""

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        return {"soft": loss(student.logits, teacher.logits).mean()}

    return objective


def fused(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
    """Return forward KL from hidden states: the logits are never held."""

    def sides(outputs: Outputs) -> tuple[Any, Any]:
        last, kernel = outputs.features["last"], outputs.features["kernel"]
        return last.reshape(-1, last.shape[-1]), kernel

    return {"soft": losses.sum_linear_divergence(*sides(student), *sides(teacher))}


def stored(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Return KL from the tokens that were stored of what the teacher said."""
    said = batch["teacher/log_probs"], batch["teacher/ids"]
    return {"soft": losses.top_k_kl(student.logits, *said).mean()}


DIVERGENCES: dict[str, Objective] = {
    "forward-kl": divergence(losses.soft_target_kl),
    "reverse-kl": divergence(losses.reverse_kl),
    "jensen": divergence(functools.partial(losses.jensen_shannon, beta=0.5)),
    "skew": divergence(losses.skew_kl),
    "fused": fused,
}
Method = Literal[
    *("forward-kl", "reverse-kl", "jensen", "skew", "fused"),
    *("stored", "teacher-text", "on-policy"),
]
ALL: tuple[Method, ...] = get_args(Method)


def ask(field: Field) -> Arrays:
    """Return the training windows with the teacher's `STORED` likeliest tokens."""
    assert field.teacher is not None
    network, variables = field.teacher

    @jax.jit
    def say(variables: Variables, batch: Batch) -> Any:
        logits = network.apply(variables, read(batch))[0].logits
        likeliest = jax.lax.top_k(jax.nn.log_softmax(logits), STORED)
        return dict(zip(("teacher/log_probs", "teacher/ids"), likeliest, strict=True))

    train = field.problem.train
    return {**train, **_problem.asked(train, lambda batch: say(variables, batch))}


def sequences(field: Field, model: Decoder, length: int) -> Arrays:
    """Return windows whose second half the teacher wrote, drawn at T = 1."""
    assert field.teacher is not None
    _, variables = field.teacher
    half, numbers = (length + 1) // 2, itertools.count()

    @jax.jit
    def write(variables: Variables, batch: Batch, number: Any) -> Any:
        prompt, key = batch["tokens"][:, :half], jax.random.key(number)
        return generate(model, variables, prompt, length + 1 - half, key)

    def say(batch: Batch) -> Any:
        return {"tokens": write(variables, batch, next(numbers))}

    return _problem.asked(field.problem.train, say)


def sampling(model: Decoder, length: int, part: float) -> Callable[..., Any]:
    """Return what writes the second half of some batches with the student itself.

    Args:
      model: the student.
      length: tokens that are read of a window.
      part: of the batches, GKD's lambda.
    """
    half = (length + 1) // 2

    def sample(variables: Variables, batch: Batch, key: Any) -> Batch:
        coin, words = jax.random.split(key)

        def write(batch: Batch) -> Batch:
            prompt, rest = batch["tokens"][:, :half], length + 1 - half
            return {**batch, "tokens": generate(model, variables, prompt, rest, words)}

        own = jax.random.bernoulli(coin, part)
        return jax.lax.cond(own, write, lambda batch: dict(batch), batch)

    return sample


def compared(field: Field, config: Any) -> report.Result:
    """Train the teacher and its students; return the table."""
    length = config.length
    sizes = {"vocabulary": config.vocabulary, "heads": 4, "length": length + 1}
    teacher = Decoder(width=config.teacher_width, depth=4, dropout=0.1, **sizes)
    student = Decoder(width=config.student_width, depth=2, **sizes)
    field.teach(teacher, labels)
    learner = field.learner(student)
    speaking = field.learner(student, sample=sampling(student, length, config.lmbda))
    field.students("student alone", learner, labels)
    # made once, and only if a row needs them
    told = functools.cache(lambda: ask(field))
    written = functools.cache(lambda: sequences(field, teacher, length))
    for name in config.methods:
        if name in DIVERGENCES:
            field.students(name, learner, DIVERGENCES[name])
        elif name == "on-policy":
            field.students(name, speaking, DIVERGENCES["jensen"])
        elif name == "stored":
            field.train(name, stored, learner, examples=lambda seed: told())
        else:
            field.train(name, labels, learner, examples=lambda seed: written())
    return field.table(
        f"Language model on {field.problem.name}",
        "student alone",
        ("perplexity", "gain", "agreement", "parameters", "flops", "latency"),
        f"stored: the {STORED} likeliest tokens. teacher-text: the teacher wrote the "
        "second half of every window, once. on-policy: Jensen-Shannon; the student "
        f"wrote the second half of about {100 * config.lmbda:g} % of the batches.",
    )
