"""Networks as files: written, read by a process that has nothing else, measured."""

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._workdir import Run, RunError
from kdjax import compress, data, export, metrics, report, trees
from kdjax.base import Network, Variables
from kdjax.compress import quantize

WEIGHTS, PROGRAM, ONNX = "weights.safetensors", "network.stablehlo", "network.onnx"
NOTES = (
    "Accuracies are those of the files: a fresh process ran each StableHLO program on "
    "the test split, and the ONNX file of the first seed.",
    f"on disk: bytes of {WEIGHTS}, mean over seeds; codes are packed as bits, and "
    "pruned weights left out where a bitmap and the rest take less.",
    "FLOPs and times are of the program that runs, per example: pruned single weights "
    "are zeros in it, and quantized weights are floats again, but in the int8 row. "
    "Rows with the same program have the same times: compiled by XLA, and in "
    "onnxruntime on one thread, the fastest of 700 calls in turn.",
    "best in: no other row is at least as accurate and no larger (slower), by means; "
    "differences within the ± are not shown to be any.",
)


@dataclasses.dataclass(frozen=True)
class Made:
    """A row of networks.

    Attributes:
      name: what the table calls them.
      family: of rows with one colour.
      network: that their variables are of, once they are dequantized.
      variables: by seed, perhaps quantized: what is stored.
      running: by seed, what runs in their place where it is another program, in int8.
      examples: to find ranges with for ONNX in int8; None where it is in float32.
      settings: what was chosen for them.
    """

    name: str
    family: str
    network: Network
    variables: Callable[[int], Variables]
    running: Callable[[int], tuple[Network, Variables]] | None = None
    examples: Any = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def runs(self, seed: int) -> tuple[Network, Variables]:
        """Return the network that answers, and its variables."""
        if self.running is not None:
            return self.running(seed)
        return self.network, quantize.dequantized(self.variables(seed))

    def folder(self, run: Run, seed: int) -> Path:
        """Return where the files of one of them lie."""
        return run.directory / "models" / self.name.replace(" ", "-") / f"seed{seed}"


def measured(
    run: Run, task: data.Task, made: Sequence[Made], seeds: Sequence[int]
) -> list[report.Row]:
    """Write every network to files and return the table's rows, measured on these."""
    _write_test(run, task)
    example = jnp.zeros((1, *task.train["image"].shape[1:]))
    for one in made:
        for seed in seeds:
            run.advance(0, f"writing {one.name}")
            if not (one.folder(run, seed) / "files.json").exists():
                _write(one, run, seed, example, first=seed == seeds[0])
    _measure_in_fresh_process(run)
    times = _latencies(run, made, seeds[0], example)
    rows = [_row(one, run, seeds, times[one.name]) for one in made]
    for one, row in zip(made, rows, strict=True):
        for seed, figures in zip(seeds, row.seeds, strict=True):
            _write_card(one.folder(run, seed), one, task, figures, example)
    return rows


def _write_test(run: Run, task: data.Task) -> None:
    """Write the test split as networks see it, for the process that measures."""
    count = len(task.test["label"])
    [batch] = data.epoch(task.test, count, data.pipeline(task))
    folder = run.directory / "models"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "test.npz", image=batch["image"], label=batch["label"])


def _write(made: Made, run: Run, seed: int, example: Any, first: bool) -> None:
    """Write the files of one network, and last what they are."""
    folder = made.folder(run, seed)
    folder.mkdir(parents=True, exist_ok=True)
    variables = made.variables(seed)
    whole = quantize.dequantized(variables)
    runs = made.running(seed) if made.running else (made.network, variables)
    nonzero = [np.count_nonzero(x) for x in jax.tree.leaves(whole["params"])]
    files = {
        **metrics.size(whole),
        "stored": compress.save(folder / WEIGHTS, variables, {"name": made.name}),
        "program": export.stablehlo(folder / PROGRAM, *runs, example),
        "nonzero": int(sum(nonzero)),
        "flops": _flops(made.network, example.shape),
        "sha256": trees.fingerprint(variables),
    }
    if first:
        _write_onnx(made, folder, whole, example)
    report.write_json(folder / "files.json", files)


@functools.cache
def _flops(network: Network, shape: tuple[int, ...]) -> int:
    """Count the operations of one program once, whatever its weights are."""
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), example)
    return metrics.flops(network.apply, variables, example)


def _write_onnx(made: Made, folder: Path, whole: Variables, example: Any) -> None:
    inputs = example if made.examples is None else made.examples
    export.onnx(folder / ONNX, made.network, whole, inputs)
    if made.examples is not None:
        export.onnx_int8(folder / ONNX, folder / ONNX, inputs)


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
    """Return the times of every row, of all different programs measured in turn."""
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
    files, figures = [], []
    for seed in seeds:
        folder = made.folder(run, seed)
        files.append(json.loads((folder / "files.json").read_text()))
        found = json.loads((folder / "measured.json").read_text())
        figures.append({"seed": seed, "network": str(folder), **found})
    names = [name for name in files[0] if name != "sha256"]
    cost = {name: float(np.mean([one[name] for one in files])) for name in names}
    settings = {**made.settings, "family": made.family}
    return report.Row(made.name, figures, {**cost, **times}, settings)


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


def _write_card(
    folder: Path, made: Made, task: data.Task, figures: Mapping[str, Any], example: Any
) -> None:
    export.model_card(
        folder,
        name=f"{made.name}, seed {figures['seed']}",
        data=f"{task.name}. {task.splits}",
        teacher=f"{made.family}: see the run's report.md",
        metrics={f"{k} (test)": v for k, v in figures.items() if isinstance(v, float)},
        inputs=example,
        notes="Inputs are images with the mean and standard deviation of the training "
        "split taken out, as `kdjax.data.pipeline` does.",
    )


def unmeasured(folder: Path) -> Iterator[Path]:
    """Find the folders of written networks that nobody has measured."""
    for files in sorted(folder.glob("*/seed*/files.json")):
        if not (files.parent / "measured.json").exists():
            yield files.parent
