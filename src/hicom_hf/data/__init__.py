"""From training records to batches: reading, mixing, encoding, caching, checking. Nothing here needs a trainer.

The data flow: records (`datasets`, `mixtures`, `streaming`) -> items, one per question (`conversations`) -> tensors (`encoding`,
with `feature_cache` and `selected_frames`) -> batches (`collating`, `batch_sampling`). `checking` follows it without training.
"""

from .bad_samples import SampleError, SkippedSample
from .checking import check_data
from .collating import HiComDataCollator
from .conversations import TrainingItem, training_items
from .datasets import HiComDataset, iterate_records, load_records
from .encoding import ItemEncoder
from .feature_cache import FeatureCache
from .record_media import Record
from .row_collating import HiComPreferenceCollator, HiComRowCollator
from .selected_frames import SelectedFrames
from .streaming import HiComStreamingDataset

__all__ = [
    "FeatureCache",
    "HiComDataCollator",
    "HiComDataset",
    "HiComPreferenceCollator",
    "HiComRowCollator",
    "HiComStreamingDataset",
    "ItemEncoder",
    "Record",
    "SampleError",
    "SelectedFrames",
    "SkippedSample",
    "TrainingItem",
    "check_data",
    "iterate_records",
    "load_records",
    "training_items",
]
