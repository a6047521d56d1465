"""What is told of a training in the end, by whichever method."""

from __future__ import annotations

from collections.abc import Sequence

from onnxcompress.core.bottleneck import Bottleneck
from onnxcompress.core.refusal import Refusal
from onnxcompress.core.run import Training, TrainingPoint
from onnxcompress.core.task import Task
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.trainer import Trainer


def summary(
    trainer: Trainer,
    task: Task,
    augmentation: Augmentation | None,
    *,
    epochs: float,
    stopped: str,
    points: Sequence[TrainingPoint],
    without_gradient: Sequence[Refusal],
    bottleneck: Bottleneck | None = None,
    added: Sequence[str] = (),
) -> Training:
    """Return what the report shows.

    Args:
        trainer: the one that trained.
        task: the data as the user gave them; a method may have trained on more.
        augmentation: how the examples were changed.
        epochs: passes over the training split.
        stopped: why it ended.
        points: evaluations on the way.
        without_gradient: weights that training could not reach, and why.
        bottleneck: what noisy gates came to.
        added: what was trained on besides, in words.
    """
    changed = () if augmentation is None else augmentation.words()
    return Training(
        data="; ".join((task.origin, *added, *changed)),
        random_data=task.random,
        labelled=task.labelled,
        loss=trainer.loss_name,
        metric=trainer.metric_name,
        train_examples=len(task.train),
        validation_examples=trainer.validation_examples,
        epochs=epochs,
        device=str(trainer.device),
        stopped=stopped,
        points=tuple(points),
        without_gradient=tuple(without_gradient),
        bottleneck=bottleneck,
        assumed_scores=trainer.assumed_scores,
    )
