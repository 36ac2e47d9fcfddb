"""Saving, restoring, and what damage does."""

import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import checkpoint, train, trees


def new_state(width=3):
    params = {"w": jnp.arange(4.0 * width).reshape(4, width), "layers": [jnp.ones(2)]}
    variables = {"params": params, "batch_stats": {}}
    return train.from_variables(variables, optax.adam(1e-3), jax.random.key(3))


def advanced(state, steps):
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x + steps,
        state,
    )


def same(one, other):
    return trees.fingerprint(one) == trees.fingerprint(other)


@pytest.fixture
def state():
    return new_state()


@pytest.fixture
def three(tmp_path, state):
    """A directory with checkpoints 1, 2, 3."""
    with checkpoint.Checkpoints(tmp_path / "run", keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, advanced(state, step), extra={"position": step})
    return tmp_path / "run"


def test_a_run_comes_back_bit_for_bit(three, state):
    with checkpoint.Checkpoints(three) as checkpoints:
        found = checkpoints.restore(state)
        assert checkpoints.steps() == [1, 2, 3]
    assert (found.step, found.extra, found.problems) == (3, {"position": 3}, ())
    assert isinstance(found.state, train.TrainState)
    assert same(found.state, advanced(state, 3))
    assert jnp.issubdtype(found.state.key.dtype, jax.dtypes.prng_key)


def test_restoring_needs_only_shapes_and_can_pick_a_step(three, state):
    with checkpoint.Checkpoints(three) as checkpoints:
        found = checkpoints.restore(jax.eval_shape(lambda: state), step=2)
    assert found.step == 2
    assert same(found.state, advanced(state, 2))


def test_an_empty_directory_restores_nothing(tmp_path, state):
    with checkpoint.Checkpoints(tmp_path / "new", best="accuracy") as checkpoints:
        assert checkpoints.restore(state) is None
        assert checkpoints.restore_best(state) is None


def test_latest_and_best_are_kept(tmp_path, state):
    with checkpoint.Checkpoints(tmp_path, keep=2, best="accuracy") as checkpoints:
        for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.2, 0.4], start=1):
            checkpoints.save(step, state, metrics={"accuracy": accuracy})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.restore_best(state).step == 2
    with checkpoint.Checkpoints(tmp_path, keep=2, best="accuracy") as checkpoints:
        assert checkpoints.restore_best(state).step == 2


def test_best_may_be_the_smallest(tmp_path, state):
    options = {"keep": 1, "best": "loss", "mode": "min"}
    with checkpoint.Checkpoints(tmp_path, **options) as checkpoints:
        for step, loss in enumerate([0.5, 0.1, 0.3], start=1):
            checkpoints.save(step, state, metrics={"loss": loss})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        assert checkpoints.restore_best(state).step == 2


def test_the_state_may_be_donated_right_after_saving(tmp_path, state):
    add = jax.jit(lambda s: advanced(s, 1), donate_argnums=0)
    expected = trees.fingerprint(state)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = add(state)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert trees.fingerprint(checkpoints.restore(state).state) == expected


def test_another_networks_checkpoint_is_refused_and_left_alone(three, state):
    before = sorted(os.listdir(three))
    with checkpoint.Checkpoints(three) as checkpoints:
        with pytest.raises(checkpoint.CheckpointError) as caught:
            checkpoints.restore(new_state(width=5))
        assert "params/w: saved float32[4, 3], wanted float32[4, 5]" in str(
            caught.value
        )
    assert sorted(os.listdir(three)) == before


def test_half_written_checkpoints_are_ignored(three, state):
    shutil.copytree(three / "3", three / "4.orbax-checkpoint-tmp")
    with checkpoint.Checkpoints(three) as checkpoints:
        assert checkpoints.restore(state).step == 3
        assert checkpoints.steps() == [1, 2, 3]


def test_a_half_copied_directory_is_set_aside(three, state):
    (three / "7").mkdir()
    said = []
    with checkpoint.Checkpoints(three) as checkpoints:
        found = checkpoints.restore(state, say=said.append)
    assert found.step == 3
    assert len(said) == 1
    assert "checkpoint 7" in said[0]


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "one bit flipped": lambda data: (
        data[: len(data) // 2]
        + bytes([data[len(data) // 2] ^ 4])
        + data[len(data) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_noticed_and_the_one_before_taken(
    tmp_path, state, damage, capfd
):
    """Every file in turn: what comes back is right, from this one or the last."""
    sound = tmp_path / "sound"
    with checkpoint.Checkpoints(sound, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, advanced(state, step))
    files = [
        path.relative_to(sound) for path in (sound / "2").rglob("*") if path.is_file()
    ]
    fell_back = 0
    for number, name in enumerate(sorted(files)):
        copy = tmp_path / str(number)
        shutil.copytree(sound, copy)
        (copy / name).write_bytes(DAMAGE[damage]((copy / name).read_bytes()))
        with checkpoint.Checkpoints(copy, keep=2) as checkpoints:
            found = checkpoints.restore(state)
        assert same(found.state, advanced(state, found.step)), name
        assert (found.step == 1) == bool(found.problems)
        fell_back += found.step == 1
    assert fell_back >= 4  # in some files a bit may not matter
    assert "Traceback" not in capfd.readouterr().err


def test_after_falling_back_the_same_step_can_be_saved_again(three, state):
    (three / "3" / "state" / "manifest.ocdbt").write_bytes(b"")
    with checkpoint.Checkpoints(three, keep=3) as checkpoints:
        found = checkpoints.restore(state)
        assert found.step == 2
        assert "checkpoint 3" in found.problems[0]
        checkpoints.save(3, advanced(state, 30))
        checkpoints.wait()
        assert same(checkpoints.restore(state).state, advanced(state, 30))
    assert (three / "unreadable-3").is_dir()


def test_nothing_readable_restores_nothing_and_deletes_nothing(three, state):
    for step in "123":
        (three / step / "state" / "manifest.ocdbt").write_bytes(b"")
    with checkpoint.Checkpoints(three) as checkpoints:
        assert checkpoints.restore(state) is None
    assert sorted(os.listdir(three)) == [f"unreadable-{step}" for step in "123"]


def test_a_full_disk_is_explained_and_what_was_saved_stays(
    tmp_path, state, monkeypatch
):
    """The error of a full disk as tensorstore words it; the real one: see below."""
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.wait()

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(checkpoint.CheckpointError) as caught:
            checkpoints.save(2, state)
    assert "no space left on device" in str(caught.value)
    assert "the last complete one is 1" in str(caught.value)
    assert checkpoints.restore(state).step == 1
    checkpoints.close()


# Orbax's other writes end after the one that failed, when nobody listens any more; the
# experiments keep quiet about that too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_really_full_disk(tmp_path, small_disk):
    state = {"w": jax.random.normal(jax.random.key(0), (40_000,))}
    checkpoints = checkpoint.Checkpoints(small_disk / "run")
    checkpoints.save(1, state)
    checkpoints.wait()
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free - 50_000))
    with pytest.raises(checkpoint.CheckpointError, match="no space left on device"):
        checkpoints.save(2, state)
        checkpoints.wait()
    (small_disk / "ballast").unlink()
    with checkpoint.Checkpoints(small_disk / "run") as again:
        assert again.restore(state).step == 1


def test_a_network_is_saved_once_with_what_it_is(tmp_path):
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"m": jnp.zeros(2)}}
    like = jax.eval_shape(lambda: variables)
    assert checkpoint.load_variables(tmp_path / "none", like) is None
    assert not Path(tmp_path / "none").exists()
    checkpoint.save_variables(tmp_path / "teacher", variables, {"steps": 7})
    found, about = checkpoint.load_variables(tmp_path / "teacher", like)
    assert about == {"steps": 7}
    assert same(found, variables)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_extra_keeps_numbers_exactly(tmp_path, state):
    value = float(np.float32(0.1)) / 3
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, extra={"sum": value, "list": [1, 2]})
        checkpoints.wait()
        assert checkpoints.restore(state).extra == {"sum": value, "list": [1, 2]}


def test_the_metric_of_the_best_must_be_given(tmp_path, state):
    with checkpoint.Checkpoints(tmp_path, best="accuracy") as checkpoints:
        for metrics in (None, {"loss": 1.0}):
            with pytest.raises(ValueError, match="metrics lack 'accuracy'"):
                checkpoints.save(1, state, metrics=metrics)
        assert checkpoints.steps() == []


def test_a_machine_in_trouble_is_not_taken_for_damage(three, state, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("not yours")

    with checkpoint.Checkpoints(three) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", refuse)
        with pytest.raises(PermissionError):
            checkpoints.restore(state)
    assert sorted(os.listdir(three)) == ["1", "2", "3"]


def test_reading_while_jax_traces_is_refused_and_sets_nothing_aside(three, state):
    with checkpoint.Checkpoints(three) as checkpoints:
        with pytest.raises(checkpoint.CheckpointError, match=r"jit.*eval_shape"):
            jax.eval_shape(lambda: checkpoints.restore(state).state)
        assert checkpoints.steps() == [1, 2, 3]
    assert not list(three.glob("unreadable-*"))
