"""Which way of making a network small costs the least accuracy?

Distillation (Hinton et al. 2015), pruning (single weights and whole units: Han et al.
2015, Li et al. 2017, Zhu and Gupta 2017) and quantization (Jacob et al. 2018, Han et
al. 2016) of the same teachers, alone and together, side by side: accuracy against bytes
on disk and against time in onnxruntime. Every figure is measured on the files that were
written, by a process that has nothing but them.

python -m experiments.compress            # digits, under 12 minutes on two cores
python -m experiments.compress --smoke    # under a minute
python -m experiments.compress --dataset fashion_mnist --student.width 32
python -m experiments.compress --sparsities 0.9 0.99 --bits 4 3 2
"""

from experiments import _compress, _run
from experiments._compress import METHODS, RANDOM, SMALL, Compression, Config
from experiments._students import hard, soft
from kdjax import report

SMOKE = Config(**SMALL)


def alone(room: Compression, config: Config) -> None:
    """Prune or quantize the teachers, without distillation."""
    for part in config.sparsities:
        room.pruned(f"magnitude {part:g}", "pruned", hard, part)
        room.pruned(f"random {part:g}", "pruned", hard, part, score=RANDOM)
        room.cut(f"units {part:g}", "pruned", hard, part)
    for bits in config.bits:
        for name in ("uniform", "k-means"):
            room.after(f"{name} {bits} bits", "quantized", METHODS[name](bits))
        room.aware(f"QAT {bits} bits", "quantized", hard, METHODS["QAT"](bits))
    room.after("powers of 2, 4 bits", "quantized", METHODS["powers of 2"](4))
    room.after("nf4", "quantized", METHODS["nf4"](4))
    room.in_int8("int8", "quantized")


def together(room: Compression, config: Config) -> list[tuple[str, str]]:
    """Combine them with distillation; return what is compared with what."""
    taught, hot = (soft(t, config.alpha) for t in (config.temperature, config.hot))
    part, bits, four = config.sparsities[-1], config.bits[-1], METHODS["k-means"](4)
    magnitude, units, qat = f"magnitude {part:g}", f"units {part:g}", f"QAT {bits} bits"
    small = room.learn("student distilled", "student", taught, room.learner)
    both = room.pruned(f"KD {magnitude}", "with KD", taught, part)
    room.after(f"KD {magnitude}, 4b", "with KD", four, both)
    room.cut(f"KD {units}", "with KD", taught, part)
    room.aware(f"KD {qat}", "with KD", taught, METHODS["QAT"](bits))
    room.aware(f"KD {qat}, T {config.hot:g}", "with KD", hot, METHODS["QAT"](bits))
    half = room.pruned("KD student 0.5", "with KD", taught, 0.5, source=small)
    room.after("KD student 0.5, 4b", "with KD", four, half)
    return [
        ("student distilled", "student alone"),
        *((f"KD {name}", name) for name in (magnitude, units, qat)),
        (f"KD {qat}, T {config.hot:g}", f"KD {qat}"),
    ]


def main(config: Config) -> report.Frontier:
    """Train, compress, export and measure; return the table."""
    config = config.checked()
    config.check()
    task = config.load()
    with _run.Run("compress", config) as run:
        room = _compress.Compression(run, config, task)
        room.learn("teacher, trained on", "teacher", hard, room.whole)
        room.learn("student alone", "student", hard, room.learner)
        alone(room, config)
        return run.finish(room.frontier(together(room, config)))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
