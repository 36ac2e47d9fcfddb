"""One of several processes that train together, for test_processes."""

import pickle
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import _cluster
from experiments._options import Options
from kdjax import checkpoint, data, losses, processes, teachers, train, trees
from kdjax.data import _spread
from tests.train import test_sharding, toy


def distances(student, teacher, batch):
    """A mean over a mask, and a relation between all examples: few collectives."""
    between = losses.rkd_distance(student.logits, teacher.logits)
    return {**toy.distance(student, teacher, batch), "distances": between.mean()}


def read_rows(batches):
    """Return how many rows of a batch this process reads."""
    seen = []
    whole = _spread._read

    def counting(read, at):
        found = whole(read, at)
        seen.append(found.shape[1])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_spread, "_read", counting)
        batches[0]
    return sum(seen) // len(jax.tree.leaves(batches._arrays))


def agree():
    """What process 0 has and makes, all have; where it fails, all fail."""
    rank = jax.process_index()
    assert processes.agreed({"rank": rank}) == {"rank": 0}
    assert processes.first(lambda: rank + 1) == 1
    assert processes.each(rank) == [*range(jax.process_count())]
    np.testing.assert_array_equal(processes.shared(np.full(3, rank)), 0)

    def refuse():
        raise ValueError("not like this")

    expected = ValueError if rank == 0 else processes.ElsewhereError
    with pytest.raises(expected, match="not like this"):
        processes.first(refuse)
    processes.together()


def main(place, model):
    _cluster.join(Options(distributed=True))
    assert processes.several()
    assert processes.is_main() == (jax.process_index() == 0)
    agree()
    arrays, teacher = pickle.loads((place / "given").read_bytes())
    mesh = train.make_mesh(jax.device_count() // model, model)
    rule = train.longest_axes(mesh, "model", least=4)
    shardings = train.Shardings(mesh, rule)
    state, seen = test_sharding.trained(
        arrays, teacher, 20, shardings, objective=distances
    )
    with checkpoint.Checkpoints(place / "checkpoints") as checkpoints:
        checkpoints.save(20, state, extra={"of": jax.process_count()})
        checkpoints.wait()
        again = checkpoints.restore(state).state
    # by a manager that has saved nothing, and without knowing what to expect
    plain = teachers.from_checkpoints(place / "checkpoints", 20)
    assert trees.fingerprint(plain) == trees.fingerprint(state.variables)
    assert again.params["w"].sharding == state.params["w"].sharding
    assert trees.fingerprint(again) == trees.fingerprint(state)
    batches = data.Batches(arrays, 20, sharding=shardings.batch)
    own = {
        "rows": read_rows(batches),
        "found": trees.to_host((state, seen)),
        "fingerprint": trees.fingerprint(state),
        "held": np.asarray(state.params["w"].addressable_shards[0].data).shape,
    }
    (place / f"found{jax.process_index()}").write_bytes(pickle.dumps(own))
    _cluster.leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
