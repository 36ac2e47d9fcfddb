"""The table of compressed networks: their files measured, and what they cost."""

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments._artifacts import (
    ONNX,
    WEIGHTS,
    Made,
    read,
    write_card,
    write_if_needed,
)
from experiments._workdir import Run, RunError, digest
from kdjax import data, export, metrics, processes, report

NOTES = (
    "Accuracies are those of the files: a fresh process ran each StableHLO program on "
    "the test split, and the ONNX file of the first seed.",
    f"on disk: bytes of {WEIGHTS}, mean over seeds; codes are packed as bits, and "
    "pruned weights left out where a bitmap and the rest take less.",
    "FLOPs and times are of one example in the network as it computes: pruned single "
    "weights are zeros in it, and quantized weights are floats again, but for the "
    "times of int8. Rows with the same network have the same times: compiled by XLA, "
    "and in onnxruntime on one thread, the fastest of 700 calls in turn.",
    "best: no other row is at least as accurate and no larger (size) or no slower in "
    "onnxruntime (time), by means; differences within the ± are not shown to be any.",
)


def measured(
    run: Run, task: data.Task, made: Sequence[Made], seeds: Sequence[int], images: Any
) -> list[report.Row]:
    """Write every network to files and return the table's rows, measured on these.

    Args:
      run: the run.
      task: its data.
      made: the rows.
      seeds: of each row.
      images: a few, on which ONNX files are compared with the networks.
    """
    if processes.several():  # all restore, for each waits for the others to
        made = [_held(one, seeds) for one in made]

    def rows() -> list[dict[str, Any]]:
        found = _measured(run, task, made, seeds, images)
        return [dataclasses.asdict(row) for row in found]

    return [report.Row(**row) for row in processes.first(rows)]


def _held(made: Made, seeds: Sequence[int]) -> Made:
    """Return a row with its variables in memory."""
    variables = {seed: made.of(seed) for seed in seeds}
    about = {seed: made.about(seed) for seed in seeds}
    running = made.running and {seed: made.running(seed) for seed in seeds}.__getitem__
    return dataclasses.replace(
        made,
        variables=variables.__getitem__,
        about=about.__getitem__,
        running=running,
    )


def _measured(
    run: Run, task: data.Task, made: Sequence[Made], seeds: Sequence[int], images: Any
) -> list[report.Row]:
    _write_test(run, task)
    for one in made:
        for seed in seeds:
            run.advance(0, f"writing {one.name}")
            write_if_needed(one, run, seed, images, first=seed == seeds[0])
    _measure_in_fresh_process(run)
    times = _latencies(run, made, seeds[0], images[:1])
    rows = [_row(one, run, seeds, times[one.name]) for one in made]
    for one, row in zip(made, rows, strict=True):
        for seed, figures in zip(seeds, row.seeds, strict=True):
            write_card(one.folder(run, seed), one, task, row, figures, images)
    return rows


def _write_test(run: Run, task: data.Task) -> None:
    """Write the test split as networks see it, for the process that measures."""
    count = len(task.test["label"])
    [batch] = data.epoch(task.test, count, data.pipeline(task))
    folder = run.directory / "models"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "test.npz", image=batch["image"], label=batch["label"])


def _measure_in_fresh_process(run: Run) -> None:
    """Measure all files that are not measured yet.

    Raises:
      RunError: if that process fails; with what it said.
    """
    folder = run.directory / "models"
    command = [sys.executable, "-m", "experiments._remeasure", str(folder)]
    # of its own session, so that Ctrl-C stops us first, and we stop it
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        said = done.stderr.strip()
        raise RunError(f"Measuring the files in {folder} failed:\n{said}")


def _latencies(
    run: Run, made: Sequence[Made], seed: int, example: Any
) -> dict[str, dict[str, float]]:
    """Return the times of every row, of all different programs measured in turn.

    They are kept, so that the same command shows the same table.
    """
    folders = [one.folder(run, seed) for one in made]
    of = digest([json.loads((f / "files.json").read_text())["sha256"] for f in folders])
    path = run.directory / "models" / "times.json"
    kept = read(path)
    if kept is None or kept.get("of") != of:
        kept = {"of": of, "times": _timed(run, made, seed, example)}
        report.write_json(path, kept)
    return kept["times"]


def _timed(
    run: Run, made: Sequence[Made], seed: int, example: Any
) -> dict[str, dict[str, float]]:
    calls: dict[Any, Callable[[], Any]] = {}
    program: dict[str, Any] = {}
    for one in made:
        key = program[one.name] = one.name if one.running else one.network
        if (key, "latency") in calls:
            continue
        network, variables = one.runs(seed)
        forward = jax.jit(lambda v, x, apply=network.apply: apply(v, x)[0].logits)
        calls[key, "latency"] = functools.partial(forward, variables, example)
        session = export.load_onnx(one.folder(run, seed) / ONNX)
        calls[key, "onnx_latency"] = functools.partial(session, np.asarray(example))
    seconds = metrics.latency(calls)
    return {
        name: {what: seconds[key, what] for what in ("latency", "onnx_latency")}
        for name, key in program.items()
    }


def _row(
    made: Made, run: Run, seeds: Sequence[int], times: Mapping[str, float]
) -> report.Row:
    costs, figures = [], []
    for seed in seeds:
        folder = made.folder(run, seed)
        costs.append(json.loads((folder / "files.json").read_text())["costs"])
        found = json.loads((folder / "measured.json").read_text())["figures"]
        figures.append({"seed": seed, "network": str(folder), **found})
    mean = {name: float(np.mean([one[name] for one in costs])) for name in costs[0]}
    settings = {**made.settings, "family": made.family}
    return report.Row(made.name, figures, {**mean, **times}, settings)


def said_by_onnx(rows: Sequence[report.Row]) -> str:
    """Say how the ONNX files of the first seed compare with the programs."""
    others = [
        f"{row.name} {100 * first['onnx_accuracy']:.2f} (not "
        f"{100 * first['accuracy']:.2f})"
        for row in rows
        for first in row.seeds[:1]
        if first["onnx_accuracy"] != first["accuracy"]
    ]
    but = f", but {', '.join(others)}" if others else ""
    return f"In onnxruntime the first seed's accuracies are the same{but}."
