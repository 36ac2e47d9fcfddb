"""Networks as files that other programs run.

    size = export.stablehlo("student.stablehlo", student, variables, images)
    logits = export.load_stablehlo("student.stablehlo")(images)  # needs JAX

    export.onnx("student.onnx", student, variables, images)
    export.onnx_int8("student-int8.onnx", "student.onnx", images)
    logits = export.load_onnx("student.onnx")(images)

    export.model_card(folder, name="student", data=task.splits, metrics=figures,
                      inputs=images)

Variables may be quantized and pruned: what `compress` makes small stays small in a
StableHLO file. Learned parts of losses are dropped before, by `networks.without_parts`.
"""

from kdjax.export._card import model_card as model_card
from kdjax.export._onnx import load_onnx as load_onnx
from kdjax.export._onnx import onnx as onnx
from kdjax.export._onnx import onnx_int8 as onnx_int8
from kdjax.export._stablehlo import load_stablehlo as load_stablehlo
from kdjax.export._stablehlo import stablehlo as stablehlo
