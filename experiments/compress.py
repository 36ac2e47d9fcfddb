"""Which way of making a network small costs the least accuracy?

Distillation (Hinton et al. 2015), pruning of single weights and whole units (Han et
al. 2015, Li et al. 2017, Zhu and Gupta 2017) and quantization (Jacob et al. 2018, Han
et al. 2016) of the same teachers, alone and together, side by side: accuracy against
bytes on disk and against time in onnxruntime. Accuracies are measured on the files that
were written, by a process that has nothing but them.

python -m experiments.compress            # digits, under 12 minutes on two cores
python -m experiments.compress --smoke    # about a minute
python -m experiments.compress --dataset fashion_mnist --student.width 32
python -m experiments.compress --sparsities 0.9 0.99 --bits 4 3 2
"""

from experiments import _run
from experiments._compress import Compression
from experiments._compress_config import METHODS, SMALL, Config
from kdjax import report

SMOKE = Config(**SMALL)


def alone(room: Compression, config: Config) -> None:
    """Prune or quantize the teachers, without distillation."""
    for part in config.sparsities:
        room.pruned(f"magnitude {part:g}", "pruned", part)
        room.pruned(f"random {part:g}", "pruned", part, at_random=True)
        room.cut(f"units {part:g}", "pruned", part)
    for bits in config.bits:
        for name in ("uniform", "k-means"):
            room.after(f"{name} {bits} bits", "quantized", METHODS[name](bits))
        room.aware(f"QAT {bits} bits", "quantized", METHODS["QAT"](bits))
    room.after("powers of 2, 4 bits", "quantized", METHODS["powers of 2"](4))
    room.after("nf4", "quantized", METHODS["nf4"](4))
    room.in_int8("int8", "quantized")


def together(room: Compression, config: Config) -> list[tuple[str, str]]:
    """Combine them with distillation; return what is compared with what."""
    warm, hot, kd = config.temperature, config.hot, "with KD"
    part, bits, four = max(config.sparsities), min(config.bits), METHODS["k-means"](4)
    magnitude, units, qat = f"magnitude {part:g}", f"units {part:g}", f"QAT {bits} bits"
    at_hot, on = f", T {hot:g}", "teacher, trained on"
    room.learn("KD teacher", kd, room.dense, warm)
    room.learn(f"KD teacher{at_hot}", kd, room.dense, hot)
    small = room.learn("student distilled", "student", room.blank, warm)
    room.learn("KD student, 2 x steps", "student", small, warm)
    both = room.pruned(f"KD {magnitude}", kd, part, warm)
    room.after(f"KD {magnitude}, 4b", kd, four, both)
    room.cut(f"KD {units}", kd, part, warm)
    for t, name in ((warm, ""), (hot, at_hot)):
        room.aware(f"KD {qat}{name}", kd, METHODS["QAT"](bits), t)
    half = room.pruned("KD student 0.5", kd, 0.5, warm, source=small)
    room.after("KD student 0.5, 4b", kd, four, half)
    return [
        ("student distilled", "student alone"),
        *((f"KD {name}", name) for name in (magnitude, units, qat)),
        (f"KD {qat}{at_hot}", f"KD {qat}"),
        ("KD teacher", on),
        (f"KD teacher{at_hot}", "KD teacher"),
    ]


def main(config: Config) -> report.Frontier:
    """Train, compress, export and measure; return the table."""
    config = config.checked()
    config.check()
    task = config.load()
    with _run.Run("compress", config) as run:
        room = Compression(run, config, task)
        room.learn("teacher, trained on", "teacher", room.dense)
        room.learn("student alone", "student", room.blank)
        alone(room, config)
        return run.finish(room.frontier(together(room, config)))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
