"""The local branch: every group of patches becomes one token.

Letters: B batch, T frames, H/W patch rows and columns, D vision width, C LLM width, G groups, K patches per group.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init

from .grouping_hicom import group, num_groups
from .injection_hicom import NORM_EPS, HiComInjection
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

    def __init__(self, width: int, output_size: int, ratio: Sequence[int]):
        super().__init__()
        frames, rows, columns = ratio
        self.ratio = frames, rows, columns
        self.readout = HiComMLP(width, output_size, output_size)

    def forward(
        self, features: torch.Tensor, aligned_features=None, instruction=None, output_attentions=False, members=None
    ):
        """features (B, T, H, W, D) or their groups -> tokens (B, G, C) and None: there is no attention. The rest is not used."""
        members = group(features, self.ratio) if members is None else members
        return self.readout(members.mean(dim=2)), None


class HiComLocalBranch(nn.Module):
    """Z_l = Attn[Inj(Vp, C), V_group, V_group]: attention inside each group, steered by the instruction.

    One head, no projections, no positions, no residual; keys are the aligned features when an instruction is injected, the
    features themselves when none is; values are the features.

    `Differs:` equation 1 prints V for the keys; table A6 (an additional projector of SigLIP) and the release say aligned
    features, without which text and patches do not share a space.

    Args:
        width: D.
        output_size: C.
        ratio: group lengths over (T, H, W).
        injection: how the instruction enters the queries; None for not at all.

    Source: paper, equation 1.
    """

    def __init__(self, width: int, output_size: int, ratio: Sequence[int], injection: HiComInjection | None):
        super().__init__()
        frames, rows, columns = ratio
        self.ratio = frames, rows, columns
        self.injection = injection
        self.readout = HiComMLP(width, output_size, output_size)

    def forward(
        self,
        features: torch.Tensor,
        aligned_features: torch.Tensor | None,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
        output_attentions: bool = False,
        members: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compress.

        Args:
            features: (B, T, H, W, D), SigLIP's second-to-last layer; or (1, T, H, W, D) for B instructions.
            aligned_features: likewise, in the space of the text; needed when an instruction is injected.
            instruction: pooled (B, D) and tokens (B, L, D), or None to compress unconditionally.
            output_attentions: return the weights, too.
            members: (B, G, K, D), the features by group, if they are there already.

        Returns:
            Tokens (B, G, C), and the weights (B, G, K) or None.
        """
        members = group(features, self.ratio) if members is None else members  # (B, G, K, D)
        queries = self.queries(features, members, instruction)
        keys = self.keys(features, aligned_features, instruction)
        collected = keys is features  # in `members`
        scores = _by_group(queries, members.transpose(-1, -2)) if collected else self.scores(queries, keys)
        values = self.values(members)
        weights = _softmax(scores, values).expand(-1, members.shape[1], -1)  # (B, G, K)
        return self.readout(_by_group(weights, values)), weights if output_attentions else None

    def queries(
        self,
        features: torch.Tensor,
        members: torch.Tensor,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Inj(Vp, C): (B, G, D), or (B, 1, D) for one query that all groups share."""
        if instruction is None or self.injection is None:
            return self.pool(features, members)
        pooled = None
        if self.injection.needs_queries:  # one video may serve several instructions
            pooled = self.pool(features, members).expand(len(instruction[0]), -1, -1)
        return self.injection(pooled, *instruction)

    def pool(self, features: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
        """Vp, one token per group before the instruction is known: the mean of its members, (B, G, D)."""
        return members.mean(dim=2)

    def keys(
        self,
        features: torch.Tensor,
        aligned_features: torch.Tensor | None,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """What the queries are compared with, (B, T, H, W, D)."""
        if instruction is None or self.injection is None:
            return features
        if aligned_features is None:
            raise ValueError(
                "an instruction is injected, but aligned_features, whose patches it is compared with, is None"
            )
        return aligned_features

    def values(self, members: torch.Tensor) -> torch.Tensor:
        """What is added up, (B, G, K, D)."""
        return members

    def scores(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Every query times the patches of its group, (B, G, K).

        Args:
            queries: (B, G, D), or (B, 1, D) for one query that all groups share.
            keys: (B, T, H, W, D).
        """
        if queries.shape[1] == 1:
            # The query is the same everywhere, so the scores are collected in groups, not the D times larger keys.
            if len(keys) < len(
                queries
            ):  # one video for B queries: a product of two matrices, as keys are not to be copied
                scores = (keys[0] @ queries[:, 0].T).movedim(-1, 0)[..., None]  # (B, T, H, W, 1)
            else:
                scores = keys @ queries[:, None, None].transpose(-1, -2)
            return group(scores, self.ratio).squeeze(-1)
        return _by_group(queries, group(keys, self.ratio).transpose(-1, -2))


class HiComUngroupedLocalBranch(HiComLocalBranch):
    """Z_l = Attn[Inj(Vp, C), V, V]: the queries of equation 1, each of which attends to the whole video.

    Source: paper, table A3.
    """

    def forward(
        self,
        features: torch.Tensor,
        aligned_features: torch.Tensor | None,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
        output_attentions: bool = False,
        members: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `HiComLocalBranch.forward`, but the weights are (B, G, N), over all N = T * H * W patches."""
        members = group(features, self.ratio) if members is None else members
        queries = self.queries(features, members, instruction)  # (B, G, D)
        keys = self.keys(features, aligned_features, instruction).flatten(1, 3)  # (B, N, D)
        values = features.flatten(1, 3)  # (B, N, D)
        weights = _softmax(queries @ keys.transpose(-1, -2), values)
        return self.readout(weights @ values), weights if output_attentions else None


class HiComReleaseLocalBranch(HiComLocalBranch):
    """The group's token is a trilinear resize of the grid, and keys are the aligned features whenever there are any.

    So they are also beside a global branch that injects. Keys and values may have gated adapters.

    Args:
        width, output_size, ratio, injection: as for `HiComLocalBranch`.
        key_adapter, value_adapter: whether there are adapters.

    Source: official release, local compressor; adapters: its second training script.
    """

    def __init__(
        self,
        width: int,
        output_size: int,
        ratio: Sequence[int],
        injection: HiComInjection | None,
        key_adapter: bool = False,
        value_adapter: bool = False,
    ):
        super().__init__(width, output_size, ratio, injection)
        readout = self.readout
        del self.readout
        self.key_adapter = HiComGatedAdapter(width) if key_adapter else None
        self.value_adapter = HiComGatedAdapter(width) if value_adapter else None
        self.readout = readout  # the last one: optimizers keep their states in the order of the parameters

    def pool(self, features: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
        """Vp: a resize of the whole grid to one cell per group, corners not aligned, (B, G, D)."""
        _, frames, rows, columns, _ = features.shape
        size = num_groups((frames, rows, columns), self.ratio)
        grid = features.movedim(-1, 1).to(torch.promote_types(features.dtype, torch.float32))  # (B, D, T, H, W)
        resized = nn.functional.interpolate(grid, size=size, mode="trilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(features.dtype)  # (B, G, D)

    def keys(
        self,
        features: torch.Tensor,
        aligned_features: torch.Tensor | None,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        keys = features if aligned_features is None else aligned_features
        return keys if self.key_adapter is None else self.key_adapter(keys)

    def values(self, members: torch.Tensor) -> torch.Tensor:
        return members if self.value_adapter is None else self.value_adapter(members)


def _softmax(scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Weights of the values (..., D) from unscaled scores, over the last axis, the softmax in at least float32."""
    scores = scores * values.shape[-1] ** -0.5
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)


def _by_group(rows: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """A vector times the matrix of its group, for all groups: rows (B, G, X), groups (B or 1, G, X, Y) -> (B, G, Y).

    With one video for B rows, its groups are not copied: the rows of a group become one matrix.
    """
    if len(groups) < len(rows):
        return (rows.transpose(0, 1) @ groups[0]).transpose(0, 1)
    return (rows[..., None, :] @ groups).squeeze(-2)
