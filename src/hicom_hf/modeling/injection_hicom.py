"""Instruction injection Inj(A, C): how the question enters the queries of a compressor branch.

Each class is one equation of the paper; a `Release` class says how the authors' code differs from it.

Letters: B batch, Q queries, L instruction tokens (64), D width. A are the queries, C the instruction: pooled Cp (B, D) and
token-level Cf (B, L, D), both from the SigLIP text tower.

Each `forward` takes A (B, Q, D), Cp and Cf, and returns (B, Q, D), or (B, 1, D) for one query that all share. `needs_queries`
says whether it reads A.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .attention_hicom import HiComCrossAttention
from .mlp_hicom import HiComMLP

NORM_EPS = 1e-6


class HiComDirectInjection(nn.Module):
    """Inj(A, C) = MLP(Cp): the pooled instruction is the query, one for all.

    The MLP starts as the identity, W1 = [I; -I] and W2 = [I, -I], since GELU(x) - GELU(-x) = x; so SigLIP's alignment of text
    and patches is used from the first step.

    Source: paper, section 3.1 (direct).
    """

    needs_queries = False

    def __init__(self, width: int):
        super().__init__()
        self.mlp = HiComMLP(width, 2 * width, width)

    def init_weights(self):
        identity = torch.eye(self.mlp.linear_2.out_features)
        init.copy_(self.mlp.linear_1.weight, torch.cat([identity, -identity]))
        init.copy_(self.mlp.linear_2.weight, torch.cat([identity, -identity], dim=1))
        init.zeros_(self.mlp.linear_1.bias)
        init.zeros_(self.mlp.linear_2.bias)

    def forward(self, queries: torch.Tensor | None, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.mlp(pooled)[:, None]


class HiComReleaseDirectInjection(nn.Module):
    """Inj(A, C) = Cp: there is no MLP.

    Source: official release.
    """

    needs_queries = False

    def forward(self, queries: torch.Tensor | None, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return pooled[:, None]


class HiComCoarseInjection(nn.Module):
    """Adaptive layer norm: Inj(A, C) = LN(A) * scale(Cp) + shift(Cp), scale and shift the halves of MLP(Cp).

    It starts as LN(A): scale 1, shift 0 for every instruction.

    Source: paper, equation 3.
    """

    needs_queries = True

    def __init__(self, width: int):
        super().__init__()
        self.mlp = HiComMLP(width, 2 * width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def init_weights(self):
        width = self.norm.normalized_shape[0]
        init.zeros_(self.mlp.linear_2.weight)
        init.copy_(self.mlp.linear_2.bias, torch.cat([torch.ones(width), torch.zeros(width)]))

    def scale_and_shift(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, D) -> (B, 1, D) each."""
        scale, shift = self.mlp(pooled)[:, None].chunk(2, dim=-1)
        return scale, shift

    def forward(self, queries: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_and_shift(pooled)
        return self.norm(queries) * scale + shift


class HiComReleaseCoarseInjection(HiComCoarseInjection):
    """Inj(A, C) = LN(A * (1 + scale(Cp)) + shift(Cp)).

    Source: official release.
    """

    def init_weights(self):
        """Nothing beyond what the MLP sets: scale and shift start small, at random."""

    def forward(self, queries: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_and_shift(pooled)
        return self.norm(queries * (1 + scale) + shift)


class HiComFineInjection(nn.Module):
    """Inj(A, C) = Attn(LN(A), Cf, Cf): every query gathers from all 64 instruction positions.

    Args:
        width: D.
        attention: of width D.

    Source: paper, equation 4.
    """

    needs_queries = True

    def __init__(self, width: int, attention: HiComCrossAttention):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = attention

    def forward(self, queries: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.attention(self.norm(queries), tokens, tokens)[0]


class HiComReleaseFineInjection(HiComFineInjection):
    """Inj(A, C) = LN(A + Attn(A, Cf, Cf)).

    Source: official release.
    """

    def forward(self, queries: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(queries + self.attention(queries, tokens, tokens)[0])


HiComInjection = HiComDirectInjection | HiComReleaseDirectInjection | HiComCoarseInjection | HiComFineInjection

COARSE = {"paper": HiComCoarseInjection, "release": HiComReleaseCoarseInjection}
FINE = {"paper": HiComFineInjection, "release": HiComReleaseFineInjection}


def make_injection(kind: str, formulation: str, width: int, config: PreTrainedConfig) -> HiComInjection | None:
    """The injection of a branch, or None for `kind="none"` (unconditional compression).

    Args:
        kind: "none", "direct", "coarse" or "fine".
        formulation: "paper" or "release".
        width: D.
        config: the compressor's, for the attention of fine injection.
    """
    if kind == "none":
        return None
    if kind == "fine":
        return FINE[formulation](width, HiComCrossAttention(width, config))
    if kind == "coarse":
        return COARSE[formulation](width)
    return HiComReleaseDirectInjection() if formulation == "release" else HiComDirectInjection(width)
