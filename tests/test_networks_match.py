"""Layers are compared before training starts; one message says all."""

import jax
import jax.numpy as jnp
import pytest

from kdjax import networks
from kdjax.base import Outputs
from kdjax.models import projectors

IMAGES = jax.ShapeDtypeStruct((2, 4), "float32")


def network(**features):
    """Return a network whose features have the given shapes after the batch axis."""

    def apply(params, inputs):
        rows = len(inputs)
        shaped = {
            name: jnp.zeros((rows, *shape) if isinstance(shape, tuple) else ())
            for name, shape in features.items()
        }
        return Outputs(inputs, shaped)

    return networks.from_function(apply, lambda key, inputs: {})


STUDENT = network(
    stem=(8, 8, 4), stage1=(8, 8, 16), stage2=(4, 4, 32), text=(7, 16), pooled=(32,)
)
TEACHER = network(
    stem=(8, 8, 4), stage1=(8, 8, 32), stage2=(2, 4, 32), text=(9, 24), pooled=(64,),
    stage2_preact=(4, 4, 64), volume=(4, 4, 4, 4),
)  # fmt: skip


def message(layers, **how):
    with pytest.raises(ValueError, match=r"networks\.match: ") as caught:
        networks.match(STUDENT, TEACHER, IMAGES, layers, **how)
    return str(caught.value)


def test_every_mismatch_is_listed_with_what_solves_it():
    layers = (
        "stem", "stage1", "stage2", "text", "pooled", ("stage1", "pooled"),
        ("stage2", "stage2_preact"), ("stage2", "volume"), "stage9", ("logit", "poled"),
    )  # fmt: skip
    known = (
        "There are: logits, pooled, stage1, stage2, stage2_preact, stem, text, volume"
    )
    assert (
        message(layers, needs="shape")
        == f"""\
networks.match: 9 of 10 layers cannot be compared (needs='shape'):
  stage1: student [batch, 8, 8, 16], teacher [batch, 8, 8, 32]: channels differ
    add "stage1": projectors.ConvRegressor(32)
  stage2: student [batch, 4, 4, 32], teacher [batch, 2, 4, 32]: sizes differ \
(losses on maps pool the larger; needs='channels' allows it)
    add "stage2": projectors.ConvRegressor(32, spatial=(2, 4))
  text: student [batch, 7, 16], teacher [batch, 9, 24]: channels and sizes differ
    add "text": projectors.ConvRegressor(24, spatial=(9,))
  pooled: student [batch, 32], teacher [batch, 64]: channels differ
    add "pooled": projectors.LinearEmbedding(64)
  stage1 -> pooled: student [batch, 8, 8, 16], teacher [batch, 64]: \
numbers of axes differ
    add "stage1": projectors.LinearEmbedding(64)
  stage2 -> stage2_preact: student [batch, 4, 4, 32], teacher [batch, 4, 4, 64]: \
channels differ
    add "stage2": projectors.ConvRegressor(64, relu=False)
  stage2 -> volume: student [batch, 4, 4, 32], teacher [batch, 4, 4, 4, 4]: \
numbers of axes differ
    no projector solves it: choose another layer
  stage9:
    student: no intermediate is called 'stage9'. Did you mean 'stage2' or 'stage1' or \
'stem'? There are: logits, pooled, stage1, stage2, stem, text
    teacher: no intermediate is called 'stage9'. Did you mean 'stage2' or 'stage1' or \
'stem'? {known}
  logit -> poled:
    student: no intermediate is called 'logit'. Did you mean 'logits'? There are: \
logits, pooled, stage1, stage2, stem, text
    teacher: no intermediate is called 'poled'. Did you mean 'pooled'? {known}
networks.with_parts(student, networks.projectors_for(...)) adds these projectors"""
    )


@pytest.mark.parametrize(
    ("needs", "wrong"),
    [
        ("shape", {"stage1", "stage2", "text", "pooled", "volume"}),
        ("channels", {"stage1", "text", "pooled", "volume"}),
        ("axes", {"volume"}),
        ("batch", set()),
    ],
)
def test_what_a_loss_needs(needs, wrong):
    for layer in ("stem", "stage1", "stage2", "text", "pooled", "volume"):
        pair = ("stem", layer) if layer == "volume" else layer
        if layer in wrong:
            message([pair], needs=needs)
        else:
            networks.match(STUDENT, TEACHER, IMAGES, [pair], needs=needs)


def test_shapes_are_returned_by_pair():
    found = networks.match(STUDENT, TEACHER, IMAGES, ("stem", ("stage2", "stage2")))
    assert found == {
        ("stem", "stem"): ((2, 8, 8, 4), (2, 8, 8, 4)),
        ("stage2", "stage2"): ((2, 4, 4, 32), (2, 2, 4, 32)),
    }
    assert networks.match(STUDENT, TEACHER, IMAGES, ["logits"])


@pytest.mark.parametrize("needs", ["shape", "channels"])
def test_projectors_found_make_the_layers_match(needs):
    layers = ("stem", "stage1", "stage2", "text", "pooled")
    parts = networks.projectors_for(STUDENT, TEACHER, IMAGES, layers, needs=needs)
    wanted = {"stage1", "stage2", "text", "pooled"} - (
        {"stage2"} if needs == "channels" else set()
    )
    assert set(parts) == wanted
    student = networks.with_parts(STUDENT, parts)
    found = networks.match(student, TEACHER, IMAGES, layers, needs=needs)
    if needs == "shape":
        assert all(one == other for one, other in found.values())
    assert not networks.projectors_for(student, TEACHER, IMAGES, layers, needs=needs)
    # of several arrays the first counts
    gaussian = {"stage1": projectors.VariationalRegressor(32)}
    student = networks.with_parts(STUDENT, gaussian)
    assert networks.match(student, TEACHER, IMAGES, ["stage1"], needs=needs)


def test_projectors_that_do_not_exist():
    def find(*layers):
        return networks.projectors_for(STUDENT, TEACHER, IMAGES, layers)

    with pytest.raises(ValueError, match=r"2 of 3 layers[^^]*volume[^^]*'stage9'"):
        find("stage1", ("stage2", "volume"), "stage9")
    for other in ("pooled", "text"):
        with pytest.raises(ValueError, match=r"'text' is compared with several"):
            find("text", ("text", "pooled"))
    assert find("stage1", ("stage1", "stage1")).keys() == {"stage1"}
    with pytest.raises(ValueError, match="'stage2' is compared with several"):
        find("stage2", ("stage2", "stage2_preact"))  # one suits, the other does not


def test_arguments_that_cannot_be_meant():
    with pytest.raises(ValueError, match="layers must be a sequence, got 'stage1'"):
        networks.match(STUDENT, TEACHER, IMAGES, "stage1")
    for alone in (("stage1",), ("stage1", "stage2", "stage3")):
        with pytest.raises(ValueError, match=r"pairs \(student's, teacher's\); got"):
            networks.match(STUDENT, TEACHER, IMAGES, [alone])
    assert "needs must be one of ['shape'," in message(["stem"], needs="space")
    nothing = networks.from_function(lambda params, inputs: inputs)
    with pytest.raises(ValueError, match="no init; pass"):
        networks.match(STUDENT, nothing, IMAGES, ["logits"])


def test_odd_features():
    odd = network(scalar="scalar", rows=(), pooled=(64,))
    for other, expected in (
        ("scalar", "teacher []: one has no batch axis"),
        ("rows", "teacher [batch]: numbers of axes differ"),
    ):
        with pytest.raises(ValueError, match="no projector solves it") as caught:
            networks.match(STUDENT, odd, IMAGES, [("pooled", other)])
        assert expected in str(caught.value)
    with pytest.raises(ValueError, match="no projector solves it"):
        networks.match(odd, TEACHER, IMAGES, [("rows", "pooled")])
    other = network(stem=(8, 8, 4))
    halved = networks.from_function(
        lambda params, inputs: other.apply({"params": {}}, inputs[:1])[0],
        lambda key, inputs: {},
    )
    with pytest.raises(ValueError, match="batch sizes differ"):
        networks.match(STUDENT, halved, IMAGES, ["stem"])
