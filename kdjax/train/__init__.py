"""The train step: a frozen teacher beside a student, composed with any objective.

    step = train.make_step(student.apply, teacher.apply, objective, tx)
    state = train.init(student, tx, key, example_inputs)
    for state, metrics in train.run(step, state, teacher_variables, batches):
        ...

The teacher's variables are an argument of the compiled step: a closure would bake them
into the program as constants, and a donated state would delete them for the caller.
"""

from kdjax.train.evaluation import make_eval
from kdjax.train.loop import NonFiniteError, run, scan
from kdjax.train.pmap import pmap_step
from kdjax.train.sampling import on_policy
from kdjax.train.sharding import Rule, Shardings, longest_axes, make_mesh, replicated
from kdjax.train.state import TrainState, from_variables, init
from kdjax.train.step import Metrics, Step, make_step
from kdjax.train.sweep import init_sweep, make_sweep_step
from kdjax.train.throughput import Throughput, peak_flops

__all__ = [
    "Metrics",
    "NonFiniteError",
    "Rule",
    "Shardings",
    "Step",
    "Throughput",
    "TrainState",
    "from_variables",
    "init",
    "init_sweep",
    "longest_axes",
    "make_eval",
    "make_mesh",
    "make_step",
    "make_sweep_step",
    "on_policy",
    "peak_flops",
    "pmap_step",
    "replicated",
    "run",
    "scan",
]
