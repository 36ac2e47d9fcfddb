"""The command line and the process of an experiment.

The only file that knows the command line: an experiment hands `cli` its `main` and its
configs and gets clear errors, exit codes and signals for it.
"""

import contextlib
import ctypes
import logging
import os
import platform
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import jax
import tyro

import kdjax
from experiments import _cluster
from experiments._options import Options
from experiments._plan import Planned
from experiments._workdir import Interrupted, Run
from kdjax import checkpoint, data, processes, train
from kdjax.teachers import cache

_PACKAGES = [Path(file).resolve().parent for file in (kdjax.__file__, __file__)]
_MESSAGES = (
    ValueError,
    ImportError,
    data.Unavailable,
    cache.Damaged,
    checkpoint.CheckpointError,
    train.NonFiniteError,
)
RunOptions = Annotated[Options, tyro.conf.arg(name="")]


def choice(table: Mapping[str, Any]) -> Any:
    """Return the type of a field that names a row of a table of methods.

    Its help says what each method matches.
    """
    lines = [f"{name}: {row.matches}" for name, row in table.items()]
    names: Any = Literal[tuple(table)]
    return Annotated[names, tyro.conf.arg(help="; ".join(lines) + ".")]


def prepare_process(options: Options) -> None:
    """Set up allocator, cache, logs and the job, before JAX starts its devices."""
    if options.allocator and platform.libc_ver()[0] == "glibc":
        # One arena, no mmap per buffer, nothing given back: XLA:CPU frees and takes the
        # same buffers at every step, and fresh pages cost more than the arithmetic.
        libc = ctypes.CDLL(None)
        for parameter, value in ((-8, 1), (-4, 0), (-1, -1)):
            libc.mallopt(parameter, value)
    if options.plan and options.mesh.size > jax.config.jax_num_cpu_devices:
        jax.config.update("jax_num_cpu_devices", options.mesh.size)
    if options.compilation_cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "kdjax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_logging_level", options.log_level)
    if options.log_level == "ERROR":
        # what orbax logs as an error in its threads is raised where it is waited for
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    _cluster.join(options)


class _Signals:
    """Ctrl-C and SIGTERM: in training they ask to stop, elsewhere they interrupt."""

    asked: int | None = None

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def rest(self) -> None:
        """Let Ctrl-C be too late, when all is done: it would break into the exit."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _ask(self, number: int, _: Any) -> None:
        # only a user does: schedulers may send SIGTERM twice at once
        insists = self.asked is not None and number == signal.SIGINT
        self.asked = self.asked or number
        if _cluster.has_joined() and not insists:
            os.write(2, b"\nStopping together with the others; once more: at once.\n")
            return _cluster.ask_to_stop()
        Run.stopping = True
        if insists or not Run.stepping:
            raise KeyboardInterrupt  # lost where a destructor runs: hence `stopping`
        # not print: the signal may have come in the middle of one
        os.write(2, b"\nStopping after this step; once more to stop at once.\n")


def _hush_echoes() -> None:
    """Drop what orbax's threads print about a write whose error we raise ourselves."""
    show, show_unraisable = sys.excepthook, sys.unraisablehook

    def is_echo(error: BaseException | None) -> bool:
        return str(error) == "Event loop is closed"

    sys.excepthook = lambda *raised: None if is_echo(raised[1]) else show(*raised)
    sys.unraisablehook = lambda x: None if is_echo(x.exc_value) else show_unraisable(x)


def cli(main: Callable[[Any], Any], config: Any, smoke: Any) -> NoReturn:
    """Parse the command line, run the experiment and exit with its code.

    Exit codes: 0 done; 2 bad input, with one block that says what to do; 130 and 143
    stopped by Ctrl-C and SIGTERM, with all that is done saved; 75 another process of
    the job is gone. After 143 and 75 the same command goes on: a scheduler should.

    Args:
      main: `main(config)`.
      config: the default config.
      smoke: the config that `--smoke` starts from.
    """
    signals = _Signals()
    signals.listen()
    _hush_echoes()
    module = sys.modules[main.__module__]
    name = Path(module.__file__ or "").stem
    default = smoke if "--smoke" in sys.argv[1:] else config
    with _one_speaks():
        parsed = tyro.cli(
            type(config),
            default=default,
            prog=f"python -m experiments.{name}",
            # a blank line keeps each example on its own
            description=re.sub(r"\n(python -m)", r"\n\n\1", module.__doc__ or ""),
        )
    try:
        prepare_process(parsed.run)
        main(parsed)
        processes.together()  # the first one may still be writing
    except (Interrupted, KeyboardInterrupt) as stop:
        _leave_stopped(stop, signals, name, parsed.run.plan)
    except Planned as plan:
        print(f"\n{plan}", flush=True)
    except processes.ElsewhereError:
        _leave(2, "")
    except Exception as error:
        _leave_if_meant(error, parsed.run.traceback)
        raise
    signals.rest()
    _cluster.leave(0)
    sys.exit(0)


@contextlib.contextmanager
def _one_speaks() -> Iterator[None]:
    """Let of several processes only the first say what is wrong with their flags."""
    if _cluster.is_first():
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _leave_stopped(
    stop: BaseException, signals: _Signals, name: str, plan: bool
) -> NoReturn:
    """Say how to go on, and leave with the code of the signal."""
    saved = "What is done is saved; the same command goes on from there"
    if plan:
        saved = "A plan is made anew"
    again = shlex.join(["python", "-m", f"experiments.{name}", *sys.argv[1:]])
    # where JAX listens to SIGTERM, nothing was asked of us
    together = _cluster.has_joined() and isinstance(stop, Interrupted)
    code = 128 + (signals.asked or (signal.SIGTERM if together else signal.SIGINT))
    said = f"Stopped. {saved}:\n  {again}" if _cluster.is_first() else ""
    _leave(code, said, at_once=isinstance(stop, KeyboardInterrupt))


def _leave_if_meant(error: Exception, traceback: bool) -> None:
    """Leave for an error that is meant for the user, or comes of a lost process."""
    meant = _meant_for_the_user(error)
    told_by_orbax = isinstance(error, checkpoint.CheckpointError)
    if (told_by_orbax or not meant) and _cluster.is_lost(error):
        _cluster.give_up()
    if meant and not traceback:
        _leave(2, f"{error}" if _cluster.fail(2, f"{error}") else "")
    _cluster.fail(1, "")


def _leave(code: int, text: str, at_once: bool = False) -> NoReturn:
    if text:
        print(f"\n{text}", file=sys.stderr, flush=True)
    _cluster.leave(code, at_once)
    sys.exit(code)


def _meant_for_the_user(error: Exception) -> bool:
    """Whether our own code raised it on purpose, or the machine refused: no bug."""
    if isinstance(error, OSError):
        return True
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    ours = any(raised_in.is_relative_to(place) for place in _PACKAGES)
    return ours and isinstance(error, _MESSAGES)
