"""How response methods are built, for any networks."""

from functools import partial
from typing import Any

from experiments._images import Images
from experiments._methods import Method, Taught, labelled, of_logits
from kdjax import losses

softened = partial(of_logits, temperature=4.0)

kd = softened(losses.soft_target_kl)
reverse = softened(losses.reverse_kl)
jensen = softened(losses.jensen_shannon)
skew = softened(losses.skew_kl)
skew_reverse = softened(losses.skew_reverse_kl)
variation = softened(losses.total_variation)
logits = of_logits(losses.logit_mse)
probabilities = of_logits(losses.probability_mse)
decoupled = labelled(losses.decoupled_kl)
normalized = labelled(losses.normalized_kd)
transformed = of_logits(losses.transformed_teacher_matching)
weighted = labelled(losses.weighted_soft_labels)


def _up_to_scale(student: Any, teacher: Any) -> Any:
    both = losses.standardize_logits(student), losses.standardize_logits(teacher)
    return losses.soft_target_kl(*both, temperature=2.0)


standardized = of_logits(_up_to_scale)


def virtual(images: Images, chosen: tuple[str, ...]) -> Taught:
    """Tf-KD: a teacher made of the labels."""
    classes = images.task.num_classes

    def loss(student: Any, teacher: Any, batch: Any) -> Any:
        by_hand = losses.virtual_teacher(batch["label"], classes)
        return losses.soft_target_kl(student.logits, by_hand, temperature=20.0).mean()

    return Taught(loss)


METHODS = {
    "kd": Method("soft targets (Hinton)", 0.9, kd, 0.1),
    "reverse": Method("where the student speaks (MiniLLM)", 0.9, reverse, 0.1),
    "jensen": Method("both ways (GKD)", 0.9, jensen, 0.1),
    "skew": Method("a mixture (DistiLLM)", 0.9, skew, 0.1),
    "skew-reverse": Method("a mixture, reversed", 0.9, skew_reverse, 0.1),
    "variation": Method("total variation", 0.9, variation, 0.1),
    "logits": Method("logits (Ba and Caruana)", 1, logits),
    "probabilities": Method("probabilities", 1, probabilities),
    "decoupled": Method("the label and the rest, apart (DKD)", 1, decoupled),
    "normalized": Method("the label and the rest (NKD)", 1, normalized),
    "standardized": Method("logits up to scale", 9, standardized, 0.1),
    "transformed": Method("the tempered teacher (TTM)", 1, transformed),
    "weighted": Method("where the teacher is better (WSLD)", 2.25, weighted),
    "virtual": Method("a teacher made by hand (Tf-KD)", 0.1, virtual, 0.9),
}
# Published for language models; they apply to any classes.
FOR_TEXT = ("reverse", "jensen", "skew", "skew-reverse", "variation")
