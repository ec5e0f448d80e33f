"""Training: from files of conversations to a checkpoint.

The way of the data: records (`datasets`, `mixtures`, `streaming`) -> items, one per question (`conversations`) -> tensors
(`encoding`, with `feature_cache`) -> batches (`collating`, `sampling`). `checking` goes the same way without training.
"""
