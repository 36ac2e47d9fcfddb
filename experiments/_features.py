"""How feature methods are built of losses and learned parts, for residual networks."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments._images import Images
from experiments._methods import STAGES, Taught, each, projected, several, single
from kdjax import data, losses, networks, processes, train
from kdjax.base import Network, Outputs, Variables
from kdjax.models import projectors

LAST = "stage3"
PREACTIVATIONS = tuple(f"{stage}_preact" for stage in STAGES)

hint = projected(losses.hint, "stage2")
cosine = projected(losses.cosine_hint, LAST)
attention = each(losses.attention_transfer, *STAGES, needs="axes")
selectivity = each(losses.neuron_selectivity, *STAGES, needs="axes")
boundary = projected(losses.activation_boundary, *PREACTIVATIONS)
channels = projected(losses.channel_wise_kl, LAST)
correlation = projected(losses.channel_correlation, LAST)
activation = each(losses.class_activation, "class_maps")
pearson = projected(losses.pearson_features, LAST)


def flow(images: Images, chosen: tuple[str, ...]) -> Taught:
    """FSP: how one layer turns into the next."""
    layers = several("flow", chosen or ("stem", *STAGES))
    images.match(layers, "channels")

    def pairs(outputs: Outputs) -> list[tuple[Any, Any]]:
        maps = [outputs.features[name] for name in layers]
        return list(itertools.pairwise(maps))

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        both = zip(pairs(student), pairs(teacher), strict=True)
        return sum(losses.flow_of_solution(s, t).mean() for s, t in both)

    return Taught(loss)


def singular(images: Images, chosen: tuple[str, ...]) -> Taught:
    """KDSVD: how the main direction of one map turns into the next one's."""
    layers = several("singular", chosen or STAGES)
    images.match(layers, "channels")

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        maps = ([side.features[name] for name in layers] for side in (student, teacher))
        return losses.singular_value(*maps).mean()

    return Taught(loss)


def variational(images: Images, chosen: tuple[str, ...]) -> Taught:
    """VID: how likely the teacher's map is, given the student's."""
    shapes = images.match(chosen or STAGES, "batch")

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        return sum(
            losses.variational_information(
                *student.features[name], teacher.features[of]
            ).mean()
            for name, of in shapes
        )

    parts = {
        name: projectors.VariationalRegressor(shape[-1])
        for (name, _), (_, shape) in shapes.items()
    }
    return Taught(loss, parts)


def margin(images: Images, chosen: tuple[str, ...]) -> Taught:
    """OFD: what exceeds each channel's margin, which the teacher's batch norm gives."""
    taught = projected(losses.hint, *PREACTIVATIONS)(images, chosen)
    names = list(taught.parts)
    margins = {name: _margin(images, name) for name in names}

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        # half the weight for every stage further from the end
        return sum(
            losses.margin_relu_l2(
                student.features[name], teacher.features[name], margins[name]
            ).mean()
            / 2 ** (len(names) - 1 - number)
            for number, name in enumerate(names)
        )

    return taught._replace(loss=loss)


def _margin(images: Images, preactivation: str) -> Any:
    """Return the margins of the channels of a stage before its last ReLU."""
    stage = preactivation.removesuffix("_preact")
    params = images.teacher.variables["params"]
    blocks = sorted(name for name in params if name.startswith(f"{stage}_block"))
    if not blocks or stage == preactivation:
        raise ValueError(
            f"margin: {preactivation!r} is not what stands before a stage's ReLU; "
            f"choose among {', '.join(PREACTIVATIONS)}"
        )
    last = max(blocks, key=lambda name: int(name.split("_block")[1]))
    norm = params[last]["norm2"]
    return losses.margin_from_batch_norm(norm["scale"], norm["bias"])


def review(images: Images, chosen: tuple[str, ...]) -> Taught:
    """ReviewKD: every stage fused with the deeper ones."""
    shapes = images.match(chosen or STAGES, "batch")
    fusion = projectors.ReviewFusion(tuple(shape[-1] for _, shape in shapes.values()))
    names = tuple(name for name, _ in shapes)

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        fused = zip(student.features["review"], shapes, strict=True)
        return sum(
            losses.hierarchical_context(one, teacher.features[of]).mean()
            for one, (_, of) in fused
        )

    return Taught(loss, {"review": networks.Part(fusion, names)})


def calibration(images: Images, chosen: tuple[str, ...]) -> Taught:
    """SemCKD: every layer follows those of the teacher that attention chooses."""
    layers = chosen or STAGES
    images.match(layers, "axes")
    part = networks.Part(projectors.CrossLayerAttention(), layers, layers)

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        return losses.semantic_calibration(*student.features["calibration"]).mean()

    return Taught(loss, {"calibration": part})


def classifier(images: Images, chosen: tuple[str, ...]) -> Taught:
    """SimKD: the student's last map, projected, is read by the teacher's own head."""
    layer = single("classifier", chosen or (LAST,))
    [(_, shape)] = images.match((layer,), "batch").values()
    head = images.teacher.variables["params"]["head"]
    if shape[-1] != head["kernel"].shape[0]:
        raise ValueError(
            f"config: the teacher's head reads {head['kernel'].shape[0]} channels, but "
            f"its {layer!r} has {shape[-1]}; choose the layer before the head"
        )
    reused = projectors.ReusedClassifier(**head)
    parts = {
        layer: projectors.SimKDProjector(shape[-1]),
        "logits": networks.Part(reused, layer),
    }
    taught = each(losses.hint, LAST, needs="batch")(images, chosen)
    return taught._replace(parts=parts, exported=True)


def factor(images: Images, chosen: tuple[str, ...]) -> Taught:
    """FT: the student follows a paraphrase of the teacher's map, trained before it."""
    layer = single("factor", chosen or (LAST,))
    images.notes.append(
        f"factor: its paraphraser learns from the teacher's maps for "
        f"{images.config.steps} steps before; they are in no student's budget."
    )
    [(_, shape)] = images.match((layer,), "batch").values()
    paraphraser = projectors.Paraphraser()

    def teacher() -> tuple[Network, Variables]:
        network, variables = images.teacher.frozen
        part = {"factor": networks.Part(paraphraser, layer)}
        learned = {"factor": _paraphrase(images, layer, paraphraser)}
        beside = networks.with_parts(network, part)
        return beside, networks.join_parts(variables, learned)

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        factors = student.features["factor"], teacher.features["factor"][0]
        return losses.factor_transfer(*factors).mean()

    translator = projectors.Translator(int(shape[-1] * paraphraser.rate))
    return Taught(loss, {"factor": networks.Part(translator, layer)}, teacher)


def _paraphrase(images: Images, layer: str, paraphraser: Any) -> Any:
    """Train a paraphraser to reconstruct the teacher's map; return its variables."""
    network, variables = images.teacher.frozen
    part = networks.Part(paraphraser, teacher=layer)
    learner = networks.with_parts(None, {layer: part}, teacher=network)

    def objective(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        _, again = student.features[layer]
        return {"error": jnp.square(again - teacher.features[layer]).mean()}

    config, task, tx = images.config, images.task, optax.adam(1e-3)
    batches = data.Batches(
        task.train, config.batch_size, seed=0, transform=data.pipeline(task)
    )
    step = train.make_step(learner.apply, network.apply, objective, tx)
    state = train.init(learner, tx, jax.random.key(0), images.example)
    steps = (batches[number] for number in range(config.steps))
    for state, _ in train.run(step, state, variables, steps):
        images.run.advance(0, "paraphraser")
    return processes.shared(networks.parts_of(state.variables)[layer])
