"""How relation methods are built of losses and learned parts, for residual networks."""

from typing import Any

import optax

from experiments._images import Images
from experiments._methods import Taught, each, of_logits, several, single
from kdjax import losses, networks
from kdjax.base import Outputs
from kdjax.models import projectors


def _rkd(student: Any, teacher: Any) -> Any:
    distance = losses.rkd_distance(student, teacher)
    return 25 * distance + 50 * losses.rkd_angle(student, teacher)


def _dist(student: Any, teacher: Any) -> Any:
    between = losses.inter_class_correlation(student, teacher)
    return between + losses.intra_class_correlation(student, teacher).mean()


def _grams(student: Any, teacher: Any) -> Any:
    def at(temperature: float) -> Any:
        settings = {"temperature": temperature}
        alone = losses.soft_target_kl(student, teacher, **settings)
        grams = losses.class_gram(student, teacher, **settings).mean()
        return alone + grams + losses.batch_gram(student, teacher, **settings)

    return sum(at(temperature) for temperature in (2.0, 3.0, 4.0, 5.0, 6.0))


def _order(student: Any, teacher: Any) -> Any:
    def unit(x: Any) -> Any:
        return x / optax.safe_norm(x, 1e-12, axis=-1, keepdims=True)

    return losses.rank_order(unit(student), unit(teacher))


rkd = each(_rkd, "pooled", needs="batch")
similarity = each(losses.similarity_preserving, "stage3", needs="batch")
probabilistic = each(losses.probabilistic_transfer, "pooled", needs="batch")
congruence = each(losses.correlation_congruence, "pooled", needs="batch")
order = each(_order, "pooled", needs="batch")
classes = of_logits(_dist)
grams = of_logits(_grams)


def contrast(images: Images, chosen: tuple[str, ...]) -> Taught:
    """CRD: the embedding of an example is nearer its teacher's than any other's."""
    layer = single("contrast", chosen or ("pooled",))
    images.match((layer,), "batch")
    embedding = projectors.LinearEmbedding(128)
    parts = {
        "student": networks.Part(embedding, layer),
        "teacher": networks.Part(embedding, teacher=layer),
    }

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        both = student.features["student"], student.features["teacher"]
        return losses.contrastive(*both).mean()

    return Taught(loss, parts)


def graph(images: Images, chosen: tuple[str, ...]) -> Taught:
    """IRG: examples, distances between them, and how both change with depth."""
    # the last two have one width: between them there is a transformation
    default = ("stage1", "stage2", "stage3_preact", "stage3")
    layers = several("graph", chosen or default)
    images.match(layers[:-1], "batch")
    images.match(layers[-1:], "channels")

    def pooled(outputs: Outputs) -> tuple[Any, ...]:
        maps = [outputs.features[name] for name in layers]
        return tuple(x.mean(tuple(range(1, x.ndim - 1))) for x in maps)

    def loss(student: Outputs, teacher: Outputs, batch: Any) -> Any:
        terms = losses.relation_graph(pooled(student), pooled(teacher))
        return sum(term.mean() for term in terms)

    return Taught(loss)
