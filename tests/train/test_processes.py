"""Real processes on this machine train together what one device trains."""

import os
import pickle

import pytest

from kdjax import checkpoint, train, trees
from tests.jobs_here import ROOT, job
from tests.train import toy
from tests.train.test_sharding import TX, arrays, assert_same, trained  # noqa: F401
from tests.train.worker import distances

SIZE = 20


@pytest.fixture(scope="module", params=[(2, 1), (4, 2)], ids=["2", "4"])
def found(request, tmp_path_factory, arrays, teacher):  # noqa: F811
    """What each of some processes has found; of four, two hold half of an array."""
    count, model = request.param
    place = tmp_path_factory.mktemp("processes")
    (place / "given").write_bytes(pickle.dumps((arrays, trees.to_host(teacher))))
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(ROOT),
    }
    worker = ("-m", "tests.train.worker", place, model)
    with job(count, *worker, place=place, environment=environment) as running:
        assert running.codes() == [0] * count, running.told()
    each = [pickle.loads((place / f"found{n}").read_bytes()) for n in range(count)]
    return place, each


@pytest.fixture(scope="module")
def alone(arrays, teacher):  # noqa: F811
    """What one device computes."""
    return trees.to_host(trained(arrays, teacher, SIZE, objective=distances))


def test_they_train_like_one_device(found, alone):
    _, each = found
    for one in each:
        assert_same(one["found"], alone)
    assert len({one["fingerprint"] for one in each}) == 1


def test_each_reads_its_share_and_holds_its_part(found):
    _, each = found
    model = len(each) // 2
    assert [one["rows"] for one in each] == [SIZE // 2] * len(each)
    assert {one["held"] for one in each} == {(toy.INPUTS // model, toy.CLASSES)}


def test_their_checkpoint_is_restored_on_other_devices(found, devices):
    place, each = found
    here = toy.new_state(TX)
    mesh = train.make_mesh(4, 2, devices=devices)
    spread = train.Shardings(mesh, train.longest_axes(mesh, "model", least=4))
    saved = checkpoint.Checkpoints(place / "checkpoints")
    with saved as checkpoints:
        for like in (here, spread.place(here), None):
            restored = checkpoints.restore(like)
            assert restored.extra == {"of": len(each)}
            assert trees.fingerprint(restored.state) == each[0]["fingerprint"]
            if like is not None:
                found_at, wanted_at = restored.state.params["w"], like.params["w"]
                assert found_at.sharding == wanted_at.sharding
    assert not (place / "checkpoints" / "unreadable-20").exists()
