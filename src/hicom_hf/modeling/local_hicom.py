"""The local branch: every group of patches becomes one token.

Letters: B batch, T frames, H/W patch rows and columns, D vision width, C LLM width, G groups, K patches per group.
"""

import torch
from torch import nn
from transformers import initialization as init

from .grouping_hicom import group, num_groups
from .injection_hicom import NORM_EPS, make_injection
from .mlp_hicom import HiComMLP


class HiComGatedAdapter(nn.Module):
    """A(x) = (1 - a) x + a LN(MLP(x)), the gate `a` a single learned number that starts at 0.

    Source: official release, second training script ("adaptkv"); not in the paper.
    """

    def __init__(self, width: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.mlp = HiComMLP(width, width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def init_weights(self):
        init.zeros_(self.alpha)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., D)."""
        return torch.lerp(hidden, self.norm(self.mlp(hidden)), self.alpha.to(hidden.dtype))


class HiComAveragePool(nn.Module):
    """The baseline of table 4: a group's token is the mean of its patches.

    Source: paper, section 4.3, table 4.
    """

    injection = None

    def __init__(self, width: int, output_size: int, ratio: tuple[int, int, int]):
        super().__init__()
        self.ratio = tuple(ratio)
        self.readout = HiComMLP(width, output_size, output_size)

    def forward(self, features: torch.Tensor, aligned_features=None, instruction=None, output_attentions=False):
        """features (B, T, H, W, D) -> tokens (B, G, C) and None: there is no attention. The rest is not used."""
        return self.readout(group(features, self.ratio).mean(dim=2)), None


class HiComLocalBranch(nn.Module):
    """Z_l = Attn[Inj(Vp, C), V_group, V_group]: attention inside each group, steered by the instruction.

    One head, no projections, no positions, no residual; keys are the aligned features when an instruction is injected, the
    features themselves when none is; values are the features. Under `release` the keys are the aligned features whenever
    there are any, so also beside a global branch that injects.

    `Differs:` equation 1 prints V for the keys; table A6 (an additional projector of SigLIP) and the release say aligned
    features, without which text and patches do not share a space.

    Args:
        width: D.
        output_size: C.
        ratio: group lengths over (T, H, W).
        injection: "none", "direct", "coarse" or "fine".
        formulation: "paper" or "release".
        key_adapter, value_adapter: the release's gated adapters.
        grouping: False lets every query attend to the whole video (paper, table A3).
        config: the compressor's config, for the attention implementation of fine injection.

    Source: paper, equation 1; official release, local compressor.
    """

    def __init__(
        self,
        width: int,
        output_size: int,
        ratio: tuple[int, int, int],
        injection: str,
        formulation: str,
        key_adapter: bool = False,
        value_adapter: bool = False,
        grouping: bool = True,
        config=None,
    ):
        super().__init__()
        self.ratio = tuple(ratio)
        self.grouping = grouping
        self.formulation = formulation
        self.injection = make_injection(injection, width, formulation, config)
        self.key_adapter = HiComGatedAdapter(width) if key_adapter else None
        self.value_adapter = HiComGatedAdapter(width) if value_adapter else None
        self.readout = HiComMLP(width, output_size, output_size)

    def forward(
        self,
        features: torch.Tensor,
        aligned_features: torch.Tensor | None,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compress.

        Args:
            features: (B, T, H, W, D), SigLIP's second-to-last layer; or (1, T, H, W, D) for B instructions.
            aligned_features: likewise, in the space of the text; needed when an instruction is injected.
            instruction: pooled (B, D) and tokens (B, L, D), or None to compress unconditionally.
            output_attentions: return the weights, too.

        Returns:
            Tokens (B, G, C), and the weights (B, G, K) or None; K are all patches without grouping.
        """
        inject = instruction is not None and self.injection is not None
        aligned = aligned_features is not None if self.formulation == "release" else inject
        keys = aligned_features if aligned else features  # (B, T, H, W, D)
        groups = group(features, self.ratio)  # (B, G, K, D)
        queries = None if inject and not self.injection.needs_queries else self.pool(features, groups)
        if inject:
            if queries is not None:  # one video may serve several instructions
                queries = queries.expand(len(instruction[0]), -1, -1)
            queries = self.injection(queries, *instruction)  # (B, G, D), or (B, 1, D): one query for all groups
        # Without grouping, every query meets all patches: (B, N, D).
        values = groups if self.grouping else features.flatten(1, 3)
        if self.value_adapter is not None:
            values = self.value_adapter(values)
        if self.key_adapter is not None:
            keys = self.key_adapter(keys)
        elif not aligned and self.grouping:
            keys = groups  # they need not be collected twice
        scores = self.scores(queries, keys) * keys.shape[-1] ** -0.5
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
        weights = weights.expand(-1, groups.shape[1], -1)  # (B, G, K)
        pooled = _by_group(weights, values) if self.grouping else weights @ values  # (B, G, D)
        return self.readout(pooled), weights if output_attentions else None

    def scores(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """What every query makes of the patches of its group, (B, G, K); of all patches without grouping, (B, G or 1, N).

        Args:
            queries: (B, G, D), or (B, 1, D) for one query that all groups share.
            keys: (B, T, H, W, D), or (B, G, K, D) if they are collected already.
        """
        if not self.grouping:
            return queries @ keys.flatten(1, 3).transpose(-1, -2)  # (B, G or 1, N)
        if keys.ndim == 5 and queries.shape[1] == 1:
            # The query is the same everywhere, so the scores are collected in groups, not the D times larger keys.
            return group(keys @ queries[:, None, None].transpose(-1, -2), self.ratio).squeeze(-1)
        if keys.ndim == 5:
            keys = group(keys, self.ratio)
        return _by_group(queries, keys.transpose(-1, -2))

    def pool(self, features: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Vp, one token per group before the instruction is known: (B, T, H, W, D) -> (B, G, D).

        `paper`: the mean of the group. `release`: a trilinear resize of the whole grid, corners not aligned.
        """
        if self.formulation == "paper":
            return groups.mean(dim=2)
        size = num_groups(features.shape[1:4], self.ratio)
        grid = features.movedim(-1, 1).to(torch.promote_types(features.dtype, torch.float32))  # (B, D, T, H, W)
        resized = nn.functional.interpolate(grid, size=size, mode="trilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(features.dtype)  # (B, G, D)


def _by_group(rows: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """A vector times the matrix of its group, for all groups: rows (B, G, X), groups (B or 1, G, X, Y) -> (B, G, Y).

    With one video for B rows, its groups are not copied: the rows of a group become one matrix.
    """
    if len(groups) < len(rows):
        return (rows.transpose(0, 1) @ groups[0]).transpose(0, 1)
    return (rows[..., None, :] @ groups).squeeze(-2)
