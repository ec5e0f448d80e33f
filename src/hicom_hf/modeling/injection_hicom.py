"""Instruction injection Inj(A, C): how the question enters the queries of a compressor branch.

Letters: B batch, Q queries, L instruction tokens (64), D width. A are the queries, C the instruction: pooled Cp (B, D) and
token-level Cf (B, L, D), both from the SigLIP text tower.
"""

import torch
from torch import nn
from transformers import initialization as init

from .attention_hicom import HiComCrossAttention
from .mlp_hicom import HiComMLP

NORM_EPS = 1e-6


class HiComDirectInjection(nn.Module):
    """Inj(A, C) = MLP(Cp): the pooled instruction is the query, one for all.

    Under `release` there is no MLP: the query is Cp itself. The MLP starts as the identity, W1 = [I; -I] and W2 = [I, -I],
    since GELU(x) - GELU(-x) = x; so SigLIP's alignment of text and patches is used from the first step.

    Source: paper, section 3.1 (direct); official release.
    """

    needs_queries = False

    def __init__(self, width: int, formulation: str, config):
        super().__init__()
        self.mlp = HiComMLP(width, 2 * width, width) if formulation == "paper" else None

    def init_weights(self):
        if self.mlp is None:
            return
        identity = torch.eye(self.mlp.linear_2.out_features)
        init.copy_(self.mlp.linear_1.weight, torch.cat([identity, -identity]))
        init.copy_(self.mlp.linear_2.weight, torch.cat([identity, -identity], dim=1))
        init.zeros_(self.mlp.linear_1.bias)
        init.zeros_(self.mlp.linear_2.bias)

    def forward(self, queries: torch.Tensor | None, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Returns (B, 1, D); `queries` and `tokens` are not used."""
        injected = pooled if self.mlp is None else self.mlp(pooled)
        return injected[:, None]


class HiComCoarseInjection(nn.Module):
    """Adaptive layer norm: Inj(A, C) = LN(A) * scale(Cp) + shift(Cp), scale and shift the halves of MLP(Cp).

    `release` computes LN(A * (1 + scale) + shift) instead.

    Source: paper, equation 3; official release.
    """

    needs_queries = True

    def __init__(self, width: int, formulation: str, config):
        super().__init__()
        self.formulation = formulation
        self.mlp = HiComMLP(width, 2 * width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def init_weights(self):
        if self.formulation == "paper":  # start as LN(A): scale 1, shift 0, whatever the instruction
            width = self.norm.normalized_shape[0]
            init.zeros_(self.mlp.linear_2.weight)
            init.copy_(self.mlp.linear_2.bias, torch.cat([torch.ones(width), torch.zeros(width)]))

    def forward(self, queries: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """queries (B, Q, D), pooled (B, D) -> (B, Q, D); `tokens` are not used."""
        scale, shift = self.mlp(pooled)[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        if self.formulation == "paper":
            return self.norm(queries) * scale + shift
        return self.norm(queries * (1 + scale) + shift)


class HiComFineInjection(nn.Module):
    """Inj(A, C) = Attn(LN(A), Cf, Cf): every query gathers from all 64 instruction positions.

    `release` computes LN(A + Attn(A, Cf, Cf)) instead.

    Source: paper, equation 4; official release.
    """

    needs_queries = True

    def __init__(self, width: int, formulation: str, config):
        super().__init__()
        self.formulation = formulation
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = HiComCrossAttention(width, config)

    def forward(self, queries: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """queries (B, Q, D), tokens (B, L, D) -> (B, Q, D); `pooled` is not used."""
        if self.formulation == "paper":
            return self.attention(self.norm(queries), tokens, tokens)[0]
        return self.norm(queries + self.attention(queries, tokens, tokens)[0])


INJECTIONS = {"direct": HiComDirectInjection, "coarse": HiComCoarseInjection, "fine": HiComFineInjection}


def make_injection(kind: str, width: int, formulation: str, config) -> nn.Module | None:
    """The injection module of a branch, or None for `kind="none"` (unconditional compression)."""
    return None if kind == "none" else INJECTIONS[kind](width, formulation, config)
