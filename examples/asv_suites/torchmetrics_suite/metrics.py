"""Update and compute metrics as a loop of validation does: small batches, so that the package's own code counts."""

import torch
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import multiclass_accuracy

CLASSES = 10


class Batch:
    """What does it cost to add a batch of 64 samples to a metric?"""

    def setup(self) -> None:
        torch.set_num_threads(1)
        random = torch.Generator().manual_seed(0)
        self.logits = torch.randn(64, CLASSES, generator=random)
        self.labels = torch.randint(CLASSES, (64,), generator=random)
        self.scores, self.marks = self.logits[:, 0].sigmoid(), (self.labels > 4).long()
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.confusion = MulticlassConfusionMatrix(CLASSES)
        self.error, self.mean = MeanSquaredError(), MeanMetric()
        self.binned = BinaryAUROC(thresholds=50)
        self.collection = MetricCollection(
            {"accuracy": MulticlassAccuracy(CLASSES), "confusion": MulticlassConfusionMatrix(CLASSES)}
        )

    def time_accuracy(self) -> None:
        self.accuracy.update(self.logits, self.labels)

    def time_confusion_matrix(self) -> None:
        self.confusion.update(self.logits, self.labels)

    def time_squared_error(self) -> None:
        self.error.update(self.scores, self.marks)

    def time_mean(self) -> None:
        self.mean.update(self.scores)

    def time_binned_auroc(self) -> None:
        self.binned.update(self.scores, self.marks)

    def time_collection(self) -> None:
        self.collection.update(self.logits, self.labels)

    def time_forward(self) -> None:
        self.accuracy(self.logits, self.labels)

    def time_compute(self) -> None:
        self.error.update(self.scores, self.marks)  # forgets the value computed last
        self.error.compute()

    def time_functional_accuracy(self) -> None:
        multiclass_accuracy(self.logits, self.labels, CLASSES)

    def time_functional_error(self) -> None:
        mean_squared_error(self.scores, self.logits[:, 1])
