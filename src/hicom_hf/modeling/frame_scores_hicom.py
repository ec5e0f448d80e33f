"""How well each frame, and each patch of it, fits a question, before anything is compressed.

The local branch scores the patches of a group by its query times their aligned features. The same product over all frames says
where the question's object is seen. Letters: B questions, T frames, H/W patch rows and columns, D vision width.
"""

from typing import Any

import torch
from torch import nn

from .configuration_hicom import HiComConfig
from .vision_hicom import encode_in_chunks

INT8_MAX = 127


class HiComFrameScorer:
    """The query of each of B questions, and how patches are compared with it.

    With direct injection: the query that the local branch itself uses, times the keys that it uses. With any other compressor:
    SigLIP's pooled text times the aligned features, which is what direct injection computes before it is trained. Keys are not
    normalised: in the built-in world their cosine chooses no better (docs/long_video.md).

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
        pooled, tokens = model.model.instruction_encoder(instruction_ids.to(model.device))
        self._branch = _direct_branch(model)
        if self._branch is None:
            self.query = nn.functional.normalize(pooled, dim=-1)  # (B, D)
        else:
            self.query = self._branch.injection(None, pooled, tokens)[:, 0]
        self._int8_query = int8_rows(self.query)

    def patch_scores(self, aligned_features: torch.Tensor) -> torch.Tensor:
        """How well each patch fits: aligned features (T, H, W, D) of one video -> (B, T, H, W), in float32."""
        keys = _keys(self._branch, aligned_features)
        # In float32, because bfloat16 has too few digits to distinguish the best of thousands of scores.
        scores = keys.flatten(0, 2).float() @ self.query.float().T  # (T * H * W, B)
        return scores.T.unflatten(1, keys.shape[:3])

    def frame_scores(self, aligned_features: torch.Tensor) -> torch.Tensor:
        """The score of each frame, see `best_pairs`: aligned features (T, H, W, D) -> (B, T)."""
        return best_pairs(self.patch_scores(aligned_features))

    def int8_frame_scores(self, keys: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """`frame_scores` from the keys of `int8_rows`, int8 (T, H, W, D) and float32 (T, H, W): (B, T), in float32.

        Sums are whole numbers, so that a question has the same bits alone and beside others.
        """
        queries, query_scales = self._int8_query
        sums = _int8_product(keys.flatten(0, 2), queries.T)  # (T * H * W, B)
        scores = sums.T * scales.flatten() * query_scales[:, None]
        return best_pairs(scores.unflatten(1, scales.shape))


def best_pairs(patch_scores: torch.Tensor) -> torch.Tensor:
    """The score of a frame: that of two patches side by side or one above the other, of which the lesser counts; the best two.

    What is there covers more than one patch. A vision tower also sees what is not there, as a rule at a single patch: the tip
    of one thing, or the edge of two, resembles another. Of a frame of one patch, it is that patch's score.

    Args:
        patch_scores: (..., H, W).

    Returns:
        (...).
    """
    above = torch.minimum(patch_scores[..., 1:, :], patch_scores[..., :-1, :])
    beside = torch.minimum(patch_scores[..., 1:], patch_scores[..., :-1])
    best = [pairs.flatten(-2).amax(dim=-1) for pairs in (above, beside) if pairs.numel()]
    return torch.stack(best).amax(dim=0) if best else patch_scores.flatten(-2).amax(dim=-1)


def int8_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors as whole numbers from -127 to 127 and the factor of each: (..., D) -> int8 (..., D), float32 (...)."""
    scales = values.abs().amax(dim=-1, keepdim=True).float().clamp_min(torch.finfo(torch.float32).tiny) / INT8_MAX
    return (values.float() / scales).round().to(torch.int8), scales.squeeze(-1)


def _int8_product(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """int8 (N, D) times int8 (D, B), exactly: (N, B)."""
    if rows.device.type == "cpu":
        return torch._int_mm(rows, columns.contiguous())  # pyright: ignore[reportPrivateImportUsage]
    return rows.float() @ columns.float()  # float32 is exact below 2 ** 24, which a sum reaches from D = 1,041 on


def _direct_branch(model: Any) -> Any:
    """The local branch if its query is the instruction's alone, else None."""
    compressor = model.model.compressor
    branch = compressor.local_branch
    injection = None if branch is None or compressor.config.bypass_injection else branch.injection
    return None if injection is None or injection.needs_queries else branch


def _scoring_children(branch: Any) -> dict[str, nn.Module]:
    """What of the local branch scores: "injection", and the "key_adapter" that the release formulation may have."""
    children = {} if branch is None else dict(branch.named_children())
    return {name: children[name] for name in ("injection", "key_adapter") if name in children}


def _keys(branch: Any, aligned_features: torch.Tensor) -> torch.Tensor:
    """What a query is compared with; no key depends on the question."""
    return aligned_features if branch is None else branch.keys(aligned_features, aligned_features, ())


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

    @torch.no_grad()
    def frame_keys(self, aligned_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is kept for scoring: aligned features (T, H, W, D) -> int8 (T, H, W, D) and factors (T, H, W), see
        `int8_rows`."""
        return int8_rows(_keys(_direct_branch(self), aligned_features))

    def scoring_parts(self) -> dict[str, nn.Module]:
        """The parts whose weights decide the scores: both towers, and the direct injection with its adapter of the keys if they
        score."""
        parts = {"vision_tower": self.model.vision_tower, "instruction_encoder": self.model.instruction_encoder}
        return {**parts, **_scoring_children(_direct_branch(self))}

    @staticmethod
    def frame_changes(features: torch.Tensor) -> torch.Tensor:
        """How much each frame differs from the one before it; see `frame_changes` of this file."""
        return frame_changes(features)
