"""How well each frame, and each patch of it, fits a question, before anything is compressed.

The local branch scores the patches of a group by its query times their aligned features. The same product over all frames says
where the question's object is seen. Letters: B questions, T frames, H/W patch rows and columns, D vision width.
"""

from typing import Any

import torch
from torch import nn

from .configuration_hicom import HiComConfig
from .vision_hicom import encode_in_chunks


class HiComFrameScorer:
    """The query of each of B questions, and how patches are compared with it.

    With direct injection: the query that the local branch itself uses, times the keys that it uses. With any other compressor:
    the cosine of SigLIP's pooled text and the aligned features, the space that SigLIP was trained to share.

    Args:
        model: a `HiComForConditionalGeneration`.
        instruction_ids: (B, L), as `HiComProcessor.encode_instructions` makes them.

    Raises:
        ValueError: the instructions are not padded to SigLIP's length.
    """

    def __init__(self, model: Any, instruction_ids: torch.Tensor):
        length = model.config.instruction_config.max_position_embeddings
        if instruction_ids.shape[-1] != length:
            raise ValueError(f"instructions must be padded to all {length} positions, got {instruction_ids.shape[-1]}")
        compressor = model.model.compressor
        branch = compressor.local_branch
        injection = None if branch is None or compressor.config.bypass_injection else branch.injection
        pooled, tokens = model.model.instruction_encoder(instruction_ids.to(model.device))
        self.instruction = pooled, tokens
        self.branch = None if injection is None or injection.needs_queries else branch
        if self.branch is None or injection is None:
            self.query = nn.functional.normalize(pooled, dim=-1)  # (B, D)
        else:
            self.query = injection(None, *self.instruction)[:, 0]

    def patch_scores(self, aligned_features: torch.Tensor) -> torch.Tensor:
        """How well each patch fits: aligned features (T, H, W, D) of one video -> (B, T, H, W), in float32."""
        if self.branch is None:
            keys = nn.functional.normalize(aligned_features, dim=-1)
        else:
            keys = self.branch.keys(aligned_features, aligned_features, self.instruction)
        # In float32, because bfloat16 has too few digits to distinguish the best of thousands of scores.
        scores = keys.flatten(0, 2).float() @ self.query.float().T  # (T * H * W, B)
        return scores.T.unflatten(1, keys.shape[:3])

    def frame_scores(self, aligned_features: torch.Tensor) -> torch.Tensor:
        """The score of the best patch of each frame: aligned features (T, H, W, D) -> (B, T)."""
        return self.patch_scores(aligned_features).flatten(2).amax(dim=2)


def frame_changes(features: torch.Tensor) -> torch.Tensor:
    """How much each frame differs from the one before it: the median over patches of 1 - cosine.

    An object that comes or goes changes few patches, a cut nearly all.

    Args:
        features: (T, H, W, D).

    Returns:
        (T - 1), float32, from 0 to 2.
    """
    unit = nn.functional.normalize(features.flatten(1, 2).float(), dim=-1)  # (T, H * W, D)
    return (1 - (unit[1:] * unit[:-1]).sum(dim=-1)).median(dim=1).values


class FrameScoringMixin:
    """What the model offers to whoever chooses among many frames; needs `config`, `model` and `device`."""

    config: HiComConfig
    model: Any

    @torch.no_grad()
    def encode_frames(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and aligned features of frames (n, 3, S, S), each (n, H, W, D), also if the compressor reads only one of
        them."""
        size = self.config.vision_batch_size
        features, aligned = encode_in_chunks(self.model.vision_tower, pixel_values, size, aligned=True)
        assert aligned is not None  # asked for
        return features, aligned

    @torch.no_grad()
    def frame_scorer(self, instruction_ids: torch.Tensor) -> HiComFrameScorer:
        """The scorer of B questions; see `HiComFrameScorer`."""
        return HiComFrameScorer(self, instruction_ids)

    @staticmethod
    def frame_changes(features: torch.Tensor) -> torch.Tensor:
        """How much each frame differs from the one before it; see `frame_changes` of this file."""
        return frame_changes(features)
