"""The order of samples: every sample once, batches of one modality and of similar lengths, the same for the same seed."""

import numpy as np
import pytest

from hicom_hf.data.batch_sampling import HiComGroupedSampler
from hicom_hf.data.epoch_padding import sampler_of

LENGTHS = np.random.default_rng(0).integers(10, 1000, 997)
MODALITIES = np.random.default_rng(1).integers(0, 3, 997)


def order(**options):
    return list(HiComGroupedSampler(LENGTHS, MODALITIES, batch_size=8, **options))


def test_every_sample_comes_once():
    sampler = HiComGroupedSampler(LENGTHS, MODALITIES, batch_size=8)
    assert sorted(sampler) == list(range(997))
    assert len(sampler) == 997


def test_batches_are_of_one_modality_but_for_the_remainders_at_the_end():
    batches = [MODALITIES[order()[start : start + 8]] for start in range(0, 997, 8)]
    mixed = [number for number, batch in enumerate(batches) if len(set(batch)) > 1]
    assert len(mixed) <= 3
    assert all(number >= len(batches) - 3 for number in mixed)


def test_batches_hold_similar_lengths():
    def padding(indices):
        batches = [LENGTHS[indices[start : start + 8]] for start in range(0, 992, 8)]
        return sum((batch.max() - batch).sum() for batch in batches)

    assert padding(order()) < 0.2 * padding(order(group_by_length=False))


def test_the_order_follows_seed_and_epoch():
    sampler = HiComGroupedSampler(LENGTHS, MODALITIES, batch_size=8)
    first = list(sampler)
    assert first == list(sampler) == order() != order(seed=1)
    sampler.set_epoch(1)
    assert first != list(sampler) != order(seed=1)  # the epochs of one seed are not those of the next, moved by one
    sampler.set_epoch(0)
    assert first == list(sampler)


def test_without_modalities_lengths_alone_group():
    assert sorted(HiComGroupedSampler(LENGTHS, None, batch_size=8)) == list(range(997))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        HiComGroupedSampler(LENGTHS, MODALITIES, 0)
    with pytest.raises(ValueError, match="got 997 lengths and 2 modalities"):
        HiComGroupedSampler(LENGTHS, [0, 1], 8)


def test_batches_may_hold_samples_of_equally_many_visual_tokens():
    class Samples:
        lengths, modalities = LENGTHS, MODALITIES
        visual_tokens = np.random.default_rng(2).choice([40, 72, 136], 997)

        def __len__(self):
            return 997

    indices = list(sampler_of(Samples(), 8, 0, "visual_tokens"))
    assert sorted(indices) == list(range(997))
    batches = [Samples.visual_tokens[indices[start : start + 8]] for start in range(0, 997, 8)]
    assert all(len(set(batch)) == 1 for batch in batches[:-3])
    # Nothing else orders them, so that no batch has one kind of text only.
    assert not any(np.all(np.diff(LENGTHS[indices[start : start + 8]]) <= 0) for start in range(0, 80, 8))
