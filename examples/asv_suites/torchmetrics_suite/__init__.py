"""How fast does `torchmetrics`, which imports torch, count batches? A suite to compare two of its releases with."""
