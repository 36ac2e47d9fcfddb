"""The command line: help, wrong input in one readable block, exit codes."""

import dataclasses
import re
import signal

import jax
import jax.numpy as jnp
import pytest

from experiments import _config, _run, response
from experiments._options import Options
from experiments._workdir import Interrupted, Run
from kdjax import data, models, networks
from tests.experiments.conftest import ROOT


def refused(answer):
    """The block of an answer that must be a refusal in one block."""
    code, out, err = answer
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    assert err.strip()
    return err


@pytest.fixture
def respond(command):
    def run(*arguments):
        return command(
            response.main, response.Config(), *arguments, smoke=response.SMOKE
        )

    return run


def test_help_shows_every_field_with_meaning_and_default(respond):
    code, out, _ = respond("--help")
    assert code == 0
    assert "Does a small network learn more" in out
    shown = " ".join(out.replace("│", " ").split())
    for field in dataclasses.fields(response.Config):
        if field.name not in ("student", "teacher", "run"):
            assert f"--{field.name.replace('_', '-')} " in shown
    for field in dataclasses.fields(Options):
        assert f"--{field.name.replace('_', '-')}" in shown
    for flag in ("--student.model {mlp,resnet}", "--teacher.width", "--student.depth"):
        assert flag in shown
    assert "T of the soft targets, > 0. (default: 2.0)" in shown


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temperature", "0"], "temperature must be > 0, got 0.0"),
        (["--temperature", "-3"], "temperature must be > 0, got -3.0"),
        (["--alpha", "1.5"], "alpha must be in [0, 1], got 1.5"),
        (["--steps", "0"], "steps must be > 0, got 0"),
        (["--batch-size", "-1"], "batch_size must be > 0, got -1"),
        (["--learning-rates", "0"], "learning_rates must be > 0, got 0.0"),
        (["--seeds", "0"], "seeds must be at least one"),
        (["--seeds", "1", "2", "1"], "all different, got [1, 2, 1]"),
        (["--seeds", "-1", "3"], "seeds must be in [0, 2**32)"),
        (["--learning-rates", "0.1", "0.1"], "all different"),
        (["--max-skipped", "0"], "max_skipped must be > 0"),
        (["--dataset", "digitz"], "digits"),
        (["--student.model", "resnet", "--student.depth", "9"], "6n+2"),
    ],
)
def test_values_that_cannot_be(respond, flags, says, tmp_path):
    error = refused(respond("--smoke", *flags))
    assert says.replace(" ", "") in error.replace(" ", ""), error


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temprature", "2"], "--temperature"),
        (["--student.model", "cnn"], "'resnet'"),
        (["--steps", "many"], "many"),
    ],
)
def test_flags_that_cannot_be(respond, flags, says):
    assert says in refused(respond(*flags))


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(respond, tmp_path):
    error = refused(
        respond("--smoke", "--dataset", "cifar100", "--data-dir", tmp_path / "none")
    )
    assert "cifar100" in error
    assert str(tmp_path / "none") in error
    assert "prepare" in error


def test_a_diverging_run_names_step_and_term(respond):
    flags = ("--teacher-learning-rate", "1e30", "--max-skipped", "3")
    error = refused(respond("--smoke", *flags))
    assert re.search(r"step \d+: the loss or its gradient was not finite for 3", error)
    assert "learning rate" in error


def test_bad_input_leaves_no_directory_behind(respond, tmp_path):
    refused(respond("--temperature", "0"))
    refused(respond("--dataset", "digitz"))
    assert not (tmp_path / "runs").exists()


def test_another_data_set_by_one_flag(respond, tmp_path):
    name = "cmaterdb/bangla"
    prepared = ROOT.parent / "shared" / "tfds"
    if not (prepared / name).exists():
        pytest.skip(f"needs the prepared set {prepared / name}")
    flags = ("--dataset", name, "--data-dir", prepared, "--workdir", tmp_path / "run")
    sizes = ("--steps", "25", "--teacher-steps", "25", "--seeds", "1")
    code, out, err = respond("--smoke", *flags, *sizes, "--teacher.width", "16")
    assert code == 0, err
    assert f"Soft targets on {name}" in out


def capturing(config):
    network = networks.from_linen(models.MLP(10, 4), capture=("hiden1",))
    network.init(jax.random.key(0), jnp.ones((1, 8)))


def test_an_unknown_capture_name_lists_what_there_is(command):
    error = refused(command(capturing, _config.Config()))
    assert "hiden1" in error
    assert "hidden1" in error
    assert "hidden2" in error


def mismatched(config):
    from kdjax import losses

    losses.soft_target_kl(jnp.ones((2, 10)), jnp.ones((2, 7)))


def test_networks_with_different_classes(command):
    error = refused(command(mismatched, _config.Config()))
    assert "soft_target_kl" in error
    assert "[2, 10]" in error
    assert "[2, 7]" in error


def buggy(config):
    raise TypeError("a bug")


def buggy_inside_jax(config):
    jnp.ones(3) + jnp.ones(4)


@pytest.mark.parametrize("main", [buggy, buggy_inside_jax])
def test_bugs_keep_their_traceback(command, main):
    with pytest.raises(TypeError):
        command(main, _config.Config())


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), IndexError("i")])
def test_bugs_in_our_own_lines_keep_it_too(command, error, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(data, "load", broken)
    with pytest.raises(type(error)):
        command(response.main, response.SMOKE)


def test_traceback_on_demand(command):
    with pytest.raises(ValueError, match="soft_target_kl"):
        command(mismatched, _config.Config(), "--traceback")


def stopped(config):
    raise Interrupted


def test_stopped_says_how_to_go_on(command):
    code, _, err = command(stopped, _config.Config(), "--steps", "7")
    assert code == 130
    assert "experiments.test_cli --steps 7" in err


def test_signals_interrupt_what_need_not_be_finished(monkeypatch):
    monkeypatch.setattr(Run, "stopping", False)
    signals = _run._Signals()
    with pytest.raises(KeyboardInterrupt):
        signals._ask(signal.SIGTERM, None)
    assert signals.asked == signal.SIGTERM
    # that may be lost in a destructor; then the run stops at its next sign of life
    with pytest.raises(Interrupted):
        Run.advance(object.__new__(Run), 0, "writing")


def test_signals_ask_in_training_and_insist_when_asked_twice(monkeypatch):
    monkeypatch.setattr(Run, "stopping", False)
    monkeypatch.setattr(Run, "stepping", True)
    signals = _run._Signals()
    for _ in range(2):  # a scheduler may repeat itself
        signals._ask(signal.SIGTERM, None)
    assert Run.stopping
    assert signals.asked == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):
        signals._ask(signal.SIGINT, None)


def test_experiments_are_listed_with_their_questions(launch, tmp_path):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "experiments"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "response" in done.stdout
    assert "Does a small network learn more" in done.stdout
    assert "_run" not in done.stdout


def test_everything_can_be_turned_off(monkeypatch):
    used = []
    monkeypatch.setattr(_run.ctypes, "CDLL", lambda _: used.append("allocator"))
    monkeypatch.setattr(_run.jax.config, "update", lambda *a: used.append(a[0]))
    _run.prepare_process(Options(allocator=False, compilation_cache=False))
    assert used == ["jax_logging_level"]


def test_embedded_and_prepared_sets_share_one_interface():
    assert set(data.load("digits").train) == {"image", "label"}
