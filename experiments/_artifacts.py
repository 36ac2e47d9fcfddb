"""Rows of networks as files: what is written of each, and whether it is whole."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _model
from experiments._workdir import Run
from kdjax import compress, data, export, metrics, report, trees
from kdjax.base import Network, Variables
from kdjax.compress import quantize

WEIGHTS, PROGRAM, ONNX = "weights.safetensors", "network.stablehlo", "network.onnx"


@dataclasses.dataclass(frozen=True)
class Made:
    """A row of networks.

    Attributes:
      name: what the table calls them.
      family: of rows with one colour.
      module: that their variables are of, once they are dequantized.
      variables: by seed, perhaps quantized: what is stored; None of what is to be
        trained.
      about: by seed, what is stored beside them.
      running: by seed, what runs in their place where it is another program, in int8.
      examples: to find ranges with for ONNX in int8; None where it is in float32.
      settings: what was chosen for them.
      teacher: whom they learned from, for their model card.
      note: what else the card says.
    """

    name: str
    family: str
    module: Any
    variables: Callable[[int], Variables] | None = None
    about: Callable[[int], Mapping[str, Any]] = lambda seed: {}
    running: Callable[[int], tuple[Network, Variables]] | None = None
    examples: Any = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str | None = None
    note: str = ""

    @property
    def network(self) -> Network:
        """The network of the module: one for rows of equal modules."""
        return _model.network(self.module)

    def of(self, seed: int) -> Variables:
        """Return what is stored."""
        assert self.variables is not None
        return self.variables(seed)

    def runs(self, seed: int) -> tuple[Network, Variables]:
        """Return the network that answers, and its variables."""
        if self.running is not None:
            return self.running(seed)
        return self.network, quantize.dequantized(self.of(seed))

    def folder(self, run: Run, seed: int) -> Path:
        """Return where the files of one of them lie."""
        return run.directory / "models" / self.name.replace(" ", "-") / f"seed{seed}"


def read(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None if there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the network's files."""
    paths = [folder / name for name in (WEIGHTS, PROGRAM, ONNX)]
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.exists()
    }


def write_if_needed(made: Made, run: Run, seed: int, images: Any, first: bool) -> None:
    """Write the files of one network, unless they are as they were written before."""
    folder = made.folder(run, seed)
    written = read(folder / "files.json")
    if written is not None and written.get("files") == digests(folder):
        return
    if (folder / "files.json").exists():
        run.say(f"Files in {folder} are damaged or missing; writing them again.")
    folder.mkdir(parents=True, exist_ok=True)
    variables = made.of(seed)
    whole = quantize.dequantized(variables)
    runs = made.running(seed) if made.running else (made.network, variables)
    nonzero = [np.count_nonzero(x) for x in jax.tree.leaves(whole["params"])]
    costs = {
        **metrics.size(whole),
        "stored": compress.save(folder / WEIGHTS, variables, made.about(seed)),
        "program": export.stablehlo(folder / PROGRAM, *runs, images[:1]),
        "nonzero": int(sum(nonzero)),
        "flops": _flops(made.network, images[:1].shape),
    }
    if first:
        _write_onnx(made, folder, whole, images)
    sha256 = trees.fingerprint(variables)
    files = {"costs": costs, "sha256": sha256, "files": digests(folder)}
    report.write_json(folder / "files.json", files)


@functools.cache
def _flops(network: Network, shape: tuple[int, ...]) -> int:
    """Count the operations of one program once, whatever its weights are."""
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), example)
    return metrics.flops(network.apply, variables, example)


def _write_onnx(made: Made, folder: Path, whole: Variables, images: Any) -> None:
    inputs = images if made.examples is None else made.examples
    export.onnx(folder / ONNX, made.network, whole, inputs)
    if made.examples is not None:
        # however far off: its accuracy is measured, and stands below the table
        export.onnx_int8(folder / ONNX, folder / ONNX, inputs, tolerance=math.inf)


def write_card(
    folder: Path,
    made: Made,
    task: data.Task,
    row: report.Row,
    figures: Mapping[str, Any],
    images: Any,
) -> None:
    """Write the card of one network of a row."""
    tested = {f"{k} (test)": v for k, v in figures.items() if isinstance(v, float)}
    times = {
        "µs per example, XLA": row.cost["latency"] * 1e6,
        "µs per example, onnxruntime": row.cost["onnx_latency"] * 1e6,
    }
    costs = {
        "parameters": f"{row.cost['parameters']:,.0f}",
        "not zero": f"{row.cost['nonzero']:,.0f}",
        "FLOPs per example": f"{row.cost['flops']:,.0f}",
    }
    preprocessing = data.pipeline(task).about["preprocessing"]
    export.model_card(
        folder,
        name=f"{made.name}, seed {figures['seed']}",
        data=f"{task.name}. {task.splits}",
        teacher=made.teacher,
        metrics={**tested, **costs, **times, **made.settings},
        inputs=images,
        network=f"networks.from_linen(models.{code(made.module)})",
        notes=f"Inputs are `{preprocessing}`, with images of 0 to 255. Counts are "
        f"means over seeds, times are of the machine that made it. {made.note}".strip(),
    )


def code(module: Any) -> str:
    """Return the Python that makes a module of `kdjax.models`."""
    given = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
        and getattr(module, field.name) != field.default
    }
    said = (
        f"{name}={dict(value) if isinstance(value, Mapping) else value!r}"
        for name, value in given.items()
    )
    return f"{type(module).__name__}({', '.join(said)})"


def unmeasured(folder: Path) -> Iterator[Path]:
    """Find the folders of written networks whose files nobody has measured."""
    for path in sorted(folder.glob("*/seed*/files.json")):
        written, found = read(path), read(path.parent / "measured.json")
        if written and (not found or found.get("files") != written["files"]):
            yield path.parent
