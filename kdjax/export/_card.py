"""A page beside exported files that says what they are."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kdjax.files import replace
from kdjax.trees import path_name

_CALLS = {
    ".safetensors": (
        "from kdjax import compress, models, networks\n"
        "from kdjax.compress import quantize\n\n"
        "network = {network}\n"
        'variables, about = compress.load("{name}")\n'
        "outputs, _ = network.apply(quantize.dequantized(variables), inputs)"
    ),
    ".stablehlo": (
        "from pathlib import Path\n\n"
        "import jax  # and flatbuffers beside it\n\n"
        'content = Path("{name}").read_bytes()\n'
        "logits = jax.export.deserialize(bytearray(content)).call(inputs)"
    ),
    ".onnx": (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("{name}")\n'
        '[logits] = session.run(None, {{"inputs": inputs}})'
    ),
}


def model_card(
    folder: str | Path,
    *,
    name: str,
    data: str,
    metrics: Mapping[str, Any],
    inputs: Any,
    teacher: str | None = None,
    network: str = "...  # as it was made before the export",
    notes: str = "",
) -> Path:
    """Write `model_card.md` into a folder of exported files.

    It lists the files that are there (`*.safetensors`, `*.stablehlo`, `*.onnx`) with
    size, checksum and how to call each.

    Args:
      folder: with the files.
      name: of the network.
      data: what it was trained, chosen and tested on.
      metrics: figures by name; say on which split and how measured.
      inputs: a batch of inputs, an array or a pytree; shapes and dtypes are shown.
      teacher: whom it learned from, and how; None if it had none.
      network: the Python that makes the network, for who loads its weights, such as
        `"networks.from_linen(models.MLP(classes=10, width=16))"`.
      notes: what else a user must know, such as what was done with the inputs before.

    Returns:
      The file.

    Raises:
      ValueError: if there is no exported file.

    Source: Mitchell et al., "Model cards for model reporting",
    https://arxiv.org/abs/1810.03993 (2019).
    """
    folder = Path(folder)
    files = sorted(p for p in folder.glob("*") if p.suffix in _CALLS)
    if not files:
        raise ValueError(
            f"export.model_card: no exported file is in {folder}; there must be one of "
            + ", ".join(f"*{suffix}" for suffix in _CALLS)
        )
    parts = [
        f"# {name}",
        f"**Data.** {data}",
        f"**Teacher.** {teacher or 'None: it learned from labels alone.'}",
        f"**Inputs.** {_shapes(inputs)}. **Outputs.** Logits, one per class.",
        notes,
        "## Figures",
        _table([("figure", "value"), *metrics.items()]),
        "## Files",
        _table([("file", "bytes", "SHA-256"), *map(_described, files)]),
        "## How to call it",
        *(_call(path, network) for path in files),
    ]
    card = folder / "model_card.md"
    replace(card, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return card


def _shapes(inputs: Any) -> str:
    """Say shapes and dtypes, of what is no single array by path."""
    said = []
    for path, array in jax.tree_util.tree_leaves_with_path(inputs):
        shape = ", ".join(["batch", *map(str, array.shape[1:])])
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)  # as files have it
        name = f"`{path_name(path)}` " if path else ""
        said.append(f"{name}`{dtype}[{shape}]`")
    return ", ".join(said)


def _table(rows: list[tuple[Any, ...]]) -> str:
    head, *rest = [[_text(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(cell: Any) -> str:
    if getattr(cell, "size", 0) == 1:  # a number of NumPy or JAX
        cell = cell.item()
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "\\|")


def _described(path: Path) -> tuple[str, str, str]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return path.name, f"{len(content):,}", f"`{digest}`"


def _call(path: Path, network: str) -> str:
    code = _CALLS[path.suffix].format(name=path.name, network=network)
    return f"```python\n{code}\n```"
