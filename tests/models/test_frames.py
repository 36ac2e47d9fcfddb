"""The framewise network: each utterance as if it were alone, and no look ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models

from .test_rnn import layer

LENGTHS = np.array([5, 1, 6, 3], np.int32)
FRAMES = np.asarray(jax.random.normal(jax.random.key(1), (4, 6, 2)))
MODELS = [models.FrameGRU(3, 4, depth=2, bidirectional=b) for b in (False, True)]


@pytest.fixture(scope="module", params=MODELS, ids=["streaming", "bidirectional"])
def trained(request):
    """A model, its variables, and `apply` for frames and lengths."""
    model = request.param
    variables = jax.jit(model.init)(jax.random.key(0), (FRAMES, LENGTHS))
    variables = jax.tree.map(lambda x: x + 0.1 * jnp.cos(x + 1), variables)
    return model, variables, jax.jit(lambda *inputs: model.apply(variables, inputs))


def test_outputs_are_those_of_each_utterance_alone(trained):
    model, variables, apply = trained
    outputs = apply(FRAMES, LENGTHS)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def states(name, x):
        return layer(params[name], x[None])[0]

    for row, length in enumerate(LENGTHS):
        x = FRAMES[row, :length].astype(np.float64)
        for number in (1, 2):
            parts = [states(f"layer{number}", x)]
            if model.bidirectional:
                parts.append(states(f"layer{number}_backward", x[::-1])[::-1])
            x = np.concatenate(parts, axis=1)
            found = outputs.features[f"hidden{number}"][row]
            np.testing.assert_allclose(found[:length], x, atol=1e-5)
            assert not found[length:].any()
        logits = x @ params["head"]["kernel"] + params["head"]["bias"]
        frames = outputs.features["frames"][row]
        np.testing.assert_allclose(frames[:length], logits, atol=1e-5)
        assert not frames[length:].any()
        np.testing.assert_allclose(outputs.logits[row], logits.mean(0), atol=1e-5)


@pytest.mark.parametrize("junk", [1e9, np.inf, np.nan])
def test_padding_changes_nothing(trained, junk):
    _, _, apply = trained
    behind = np.arange(6)[None] >= LENGTHS[:, None]
    spoiled = np.where(behind[..., None], np.float32(junk), FRAMES)
    expected, found = apply(FRAMES, LENGTHS), apply(spoiled, LENGTHS)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    longer = np.pad(spoiled, [(0, 0), (0, 3), (0, 0)], constant_values=junk)
    found = apply(longer, LENGTHS)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
    frames = found.features["frames"]
    np.testing.assert_allclose(frames[:, :6], expected.features["frames"], atol=1e-6)


def test_padding_has_no_gradient_and_breaks_none(trained):
    model, variables, _ = trained

    def loss(variables, frames):
        outputs = model.apply(variables, (frames, LENGTHS))
        frame_logits = outputs.features["frames"]
        return jnp.square(outputs.logits).sum() + jnp.square(frame_logits).sum()

    behind = (np.arange(6)[None] >= LENGTHS[:, None])[..., None]
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    params, frames = gradient(variables, FRAMES)
    spoiled, also = gradient(variables, np.where(behind, np.float32(np.nan), FRAMES))
    jax.tree.map(np.testing.assert_array_equal, spoiled, params)
    np.testing.assert_array_equal(also, frames)
    assert not np.where(behind, frames, 0).any()
    assert np.abs(np.where(behind, 0, frames)).sum(-1).astype(bool).sum() == 15


def test_only_a_bidirectional_one_reads_the_future(trained):
    model, _, apply = trained
    changed = FRAMES.copy()
    changed[:, 3:] += 1
    before, after = apply(FRAMES, LENGTHS), apply(changed, LENGTHS)
    for name in ("hidden1", "hidden2", "frames"):
        moved = np.abs(after.features[name] - before.features[name]).sum(-1) > 1e-6
        assert moved[2, 3:].all()
        assert moved[2, :3].all() == model.bidirectional
        assert not moved[[1, 3]].any()  # they end before the change
        if not model.bidirectional:
            assert not moved[:, :3].any()


def test_lengths_are_cut_to_the_frames_there_are(trained):
    _, _, apply = trained
    found = apply(FRAMES, np.array([9, 0, 6, -2], np.int32))
    expected = apply(FRAMES, np.array([6, 1, 6, 1], np.int32))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", ["classes", "width", "depth"])
def test_wrong_arguments_are_refused_at_construction(name):
    with pytest.raises(ValueError, match=f"FrameGRU: {name} must be > 0, got 0"):
        models.FrameGRU(**{"classes": 3, "width": 5, name: 0})


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (FRAMES, "must be a pair of frames"),
        ((FRAMES,), "must be a pair of frames"),
        ((FRAMES.astype(np.int32), LENGTHS), "frames must be floating"),
        ((FRAMES[0], LENGTHS), r"frames must be \[batch, time, features\]"),
        ((FRAMES[:, :0], LENGTHS), r"at least one frame, got \[4, 0, 2\]"),
        ((FRAMES, LENGTHS[:3]), r"lengths must be integers \[batch\] = \[4\], got"),
        ((FRAMES, LENGTHS.astype(np.float32)), "integers .* got float32"),
    ],
)
def test_wrong_inputs_are_refused(inputs, match):
    with pytest.raises(ValueError, match=match):
        MODELS[0].init(jax.random.key(0), inputs)


def test_batch_of_none_and_half_precision(trained):
    model, variables, _ = trained
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), variables)
    short = FRAMES.astype(jnp.bfloat16)
    for params, frames, kind in (
        (variables, FRAMES[:0], jnp.float32),
        (half, short, jnp.bfloat16),
        (variables, short, jnp.float32),
    ):
        inputs = frames, LENGTHS[: len(frames)]
        outputs = jax.eval_shape(model.apply, params, inputs)
        assert outputs.logits.shape == (len(frames), 3)
        assert outputs.logits.dtype == outputs.features["frames"].dtype == kind
