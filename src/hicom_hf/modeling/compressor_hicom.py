"""The compressor: a video's features and an instruction become the few tokens that the LLM reads.

Letters: B batch, T frames, H/W patch rows and columns, D vision width, C LLM width, L instruction tokens, G groups, K patches
per group, Q queries, N = G + Q tokens.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils.generic import ModelOutput

from .attention_hicom import HiComCrossAttention
from .configuration_hicom import HiComCompressorConfig
from .global_hicom import HiComGlobalBranch, HiComReleaseGlobalBranch
from .grouping_hicom import group, group_positions
from .injection_hicom import make_injection
from .local_hicom import HiComAveragePool, HiComLocalBranch, HiComReleaseLocalBranch, HiComUngroupedLocalBranch


@dataclass
class HiComCompressorAttentions(ModelOutput):
    """Weights of the compressor's attention, for one video or a batch of videos of one length.

    Attributes:
        local_weights: (B, G, K), the weights inside each group; sums to 1 over K.
        local_positions: (G, K, 3), frame, row and column of each member of each group; of all patches without grouping.
        global_weights: (B, heads, Q, T, H, W); sums to 1 over (T, H, W).
    """

    local_weights: torch.Tensor | None = None
    local_positions: torch.Tensor | None = None
    global_weights: torch.Tensor | None = None


@dataclass
class HiComVideoParts:
    """What the branches compute of a video alone, the same for every instruction.

    Attributes:
        members: (1, G, K, D), the patches of each group; None without a local branch.
        keys: (1, N, D), the patches and their positions; None without a global branch.
    """

    members: torch.Tensor | None
    keys: torch.Tensor | None


class HiComCompressor(nn.Module):
    """Local tokens, then global tokens: concat(Z_l, Z_g).

    Args:
        config: which branches, and by whose equations.
        width: D, the vision (and instruction) width.
        output_size: C, the LLM width.

    Source: paper, section 3.1 and figure 2.
    """

    def __init__(self, config: HiComCompressorConfig, width: int, output_size: int):
        super().__init__()
        self.config = config
        self.local_branch = make_local_branch(config, width, output_size)
        self.global_branch = make_global_branch(config, width, output_size)

    def forward(
        self,
        features: torch.Tensor,
        aligned_features: torch.Tensor | None = None,
        instruction: tuple[torch.Tensor, torch.Tensor] | None = None,
        output_attentions: bool = False,
        parts: HiComVideoParts | None = None,
    ) -> tuple[torch.Tensor, HiComCompressorAttentions | None]:
        """Compress equally long videos; an image is a video of one frame.

        Args:
            features: (B, T, H, W, D), SigLIP's second-to-last layer; or (1, T, H, W, D), one video for B instructions.
            aligned_features: (B, T, H, W, D), needed by a local branch that injects.
            instruction: pooled (B, D) and tokens (B, L, D); None compresses unconditionally, as does
                `config.bypass_injection`.
            output_attentions: return the attention as well; it is then computed eagerly.
            parts: what `video_parts` made of a single video before; None computes it.

        Returns:
            Tokens (B, N, C): groups by frame, row, column, then the global tokens; and the attention or None.
        """
        if self.config.bypass_injection:
            instruction = aligned_features = None
        members, keys = (None, None) if parts is None else (parts.members, parts.keys)
        tokens, local_weights, global_weights = [], None, None
        if self.local_branch is not None:
            local_tokens, local_weights = self.local_branch(
                features, aligned_features, instruction, output_attentions, members
            )
            tokens.append(local_tokens)
        if self.global_branch is not None:
            global_tokens, global_weights = self.global_branch(features, instruction, output_attentions, keys)
            tokens.append(global_tokens)
        batch = max(len(part) for part in tokens)  # a branch without injection has one row for all instructions
        tokens = [part.expand(batch, -1, -1) for part in tokens]
        if local_weights is not None:
            local_weights = local_weights.expand(batch, -1, -1)
        if global_weights is not None:
            global_weights = global_weights.expand(batch, *[-1] * 5)
        attentions = None
        if output_attentions:
            _, frames, rows, columns, _ = features.shape
            grid = frames, rows, columns
            positions = None if local_weights is None else self._positions(grid, local_weights.shape[1])
            attentions = HiComCompressorAttentions(local_weights, positions, global_weights)
        return torch.cat(tokens, dim=1), attentions

    def video_parts(self, features: torch.Tensor) -> HiComVideoParts:
        """What of a video (1, T, H, W, D) serves every instruction."""
        return HiComVideoParts(
            members=None if self.local_branch is None else group(features, self.config.ratio),
            keys=None if self.global_branch is None else self.global_branch.keys(features),
        )

    def _positions(self, grid: tuple[int, int, int], groups: int) -> torch.Tensor:
        """Where the patches lie that each local token attends to, (G, K, 3)."""
        if self.config.grouping:
            return group_positions(grid, self.config.ratio)
        return group_positions(grid, grid).expand(groups, -1, -1)  # the whole grid is one group


def make_local_branch(
    config: HiComCompressorConfig, width: int, output_size: int
) -> HiComLocalBranch | HiComAveragePool | None:
    """The local branch that a config asks for, or None."""
    if config.local_branch is None:
        return None
    if config.local_branch == "average_pool":
        return HiComAveragePool(width, output_size, config.ratio)
    injection = make_injection(config.local_injection, config.formulation, width, config)
    if config.formulation == "release":
        return HiComReleaseLocalBranch(
            width, output_size, config.ratio, injection, config.key_adapter, config.value_adapter
        )
    branch_class = HiComLocalBranch if config.grouping else HiComUngroupedLocalBranch
    return branch_class(width, output_size, config.ratio, injection)


def make_global_branch(config: HiComCompressorConfig, width: int, output_size: int) -> HiComGlobalBranch | None:
    """The global branch that a config asks for, or None."""
    if not config.num_global_tokens:
        return None
    injection = make_injection(config.global_injection, config.formulation, width, config)
    attention = HiComCrossAttention(width, config)
    branch_class = HiComReleaseGlobalBranch if config.formulation == "release" else HiComGlobalBranch
    return branch_class(width, output_size, config.num_global_tokens, injection, attention)
