"""Update and compute metrics as a loop of validation does: small batches, so that the package's own code counts.

Nothing is in a `setup`: asv runs that before each call, and making these metrics takes longer than any call here.
"""

import torch
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import multiclass_accuracy

torch.set_num_threads(1)
CLASSES, SAMPLES = 10, 64
RANDOM = torch.Generator().manual_seed(0)
LOGITS = torch.randn(SAMPLES, CLASSES, generator=RANDOM)
LABELS = torch.randint(CLASSES, (SAMPLES,), generator=RANDOM)
SCORES, MARKS = LOGITS[:, 0].sigmoid(), (LABELS > 4).long()

accuracy, confusion = MulticlassAccuracy(CLASSES), MulticlassConfusionMatrix(CLASSES)
error, mean = MeanSquaredError(), MeanMetric()
binned = BinaryAUROC(thresholds=50)
collection = MetricCollection({"accuracy": MulticlassAccuracy(CLASSES), "confusion": MulticlassConfusionMatrix(CLASSES)})


def time_accuracy() -> None:
    accuracy.update(LOGITS, LABELS)


def time_confusion_matrix() -> None:
    confusion.update(LOGITS, LABELS)


def time_squared_error() -> None:
    error.update(SCORES, MARKS)


def time_mean() -> None:
    mean.update(SCORES)


def time_binned_auroc() -> None:
    binned.update(SCORES, MARKS)


def time_collection() -> None:
    collection.update(LOGITS, LABELS)


def time_forward() -> None:
    accuracy(LOGITS, LABELS)


def time_compute() -> None:
    error.update(SCORES, MARKS)  # forgets the value computed last
    error.compute()


def time_functional_accuracy() -> None:
    multiclass_accuracy(LOGITS, LABELS, CLASSES)


def time_functional_error() -> None:
    mean_squared_error(SCORES, LOGITS[:, 1])
