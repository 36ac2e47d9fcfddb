"""Measure exported networks from their files alone: run by `compress` as a process.

python -m experiments._remeasure runs/compress-.../models
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments._artifacts import ONNX, PROGRAM, WEIGHTS, unmeasured
from kdjax import compress, export, metrics, report, trees
from kdjax.base import Outputs


def figures(logits: Any, labels: Any) -> dict[str, float]:
    """Return accuracy, likelihood and calibration of logits."""
    rows = metrics.classification(Outputs(np.asarray(logits)), None, {"label": labels})
    means = {name: np.asarray(row, np.float64).mean(0) for name, row in rows.items()}
    error = metrics.calibration_error(means.pop("calibration_gap"))
    return {name: float(x) for name, x in means.items()} | {"calibration_error": error}


def measure(folder: Path, test: dict[str, Any]) -> dict[str, Any]:
    """Return what the files of a folder do on the test split.

    Raises:
      ValueError: if its weights are not those that were written.
    """
    written = json.loads((folder / "files.json").read_text())
    variables, _ = compress.load(folder / WEIGHTS)
    sha256 = trees.fingerprint(variables)
    if sha256 != written["sha256"]:
        raise ValueError(f"{folder / WEIGHTS}: other weights than were written")
    images, labels = test["image"], test["label"]
    found = figures(export.load_stablehlo(folder / PROGRAM)(images), labels)
    if (folder / ONNX).exists():
        logits = export.load_onnx(folder / ONNX)(images)
        found["onnx_accuracy"] = figures(logits, labels)["accuracy"]
    return {"figures": {**found, "sha256": sha256}, "files": written["files"]}


def main(folder: Path) -> None:
    """Measure what is not measured yet."""
    test = dict(np.load(folder / "test.npz"))
    for place in unmeasured(folder):
        report.write_json(place / "measured.json", measure(place, test))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
