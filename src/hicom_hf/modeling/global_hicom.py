"""The global branch: a few learnable tokens search the whole video.

Letters: B batch, T frames, H/W patch rows and columns, N = T * H * W patches, D vision width, C LLM width, Q queries.
"""

import torch
from torch import nn
from transformers import initialization as init

from .attention_hicom import HiComCrossAttention
from .injection_hicom import make_injection
from .mlp_hicom import INIT_STD, HiComMLP
from .positions_hicom import add_positions, axis_tables

MAX_TABLES = 16  # grids whose position tables are kept, a few hundred KB each


class HiComGlobalBranch(nn.Module):
    """Z_g = Attn[Inj(L, C), V + Pos(V), V]: learnable tokens L, given the instruction, attend to every patch.

    `release` uses V + Pos(V) for the values, too, and adds the injected queries to the result; with direct injection its
    tokens are therefore all equal.

    Args:
        width: D.
        output_size: C.
        num_queries: Q.
        injection: "none", "direct" (release only), "coarse" or "fine".
        formulation: "paper" or "release".
        config: the compressor's config, for the attention implementation.

    Source: paper, equation 2; official release, global compressor.
    """

    def __init__(self, width: int, output_size: int, num_queries: int, injection: str, formulation: str, config=None):
        super().__init__()
        self.formulation = formulation
        self.queries = nn.Parameter(torch.zeros(num_queries, width))
        self.injection = make_injection(injection, width, formulation, config)
        self.attention = HiComCrossAttention(width, config)
        self.readout = HiComMLP(width, output_size, output_size)
        self._tables = {}  # of positions, by grid and device; no weights

    def init_weights(self):
        if self.formulation == "paper":
            init.normal_(self.queries, std=INIT_STD)
        else:
            init.zeros_(self.queries)

    def forward(
        self,
        features: torch.Tensor,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compress.

        Args:
            features: (B, T, H, W, D), SigLIP's second-to-last layer; or (1, T, H, W, D) for B instructions.
            instruction: pooled (B, D) and tokens (B, L, D), or None to compress unconditionally.
            output_attentions: return the weights, too.

        Returns:
            Tokens (B, Q, C), and the weights (B, heads, Q, T, H, W) or None.
        """
        batch, *grid, _ = features.shape
        if instruction is not None:  # one video may serve several instructions
            batch = len(instruction[0])
        queries = self.queries[None].expand(batch, -1, -1)
        if instruction is not None and self.injection is not None:
            queries = self.injection(queries, *instruction).expand(-1, len(self.queries), -1)  # (B, Q, D)
        keys = add_positions(features, self.position_tables(features), self.formulation).flatten(1, 3)  # (B, N, D)
        values = features.flatten(1, 3) if self.formulation == "paper" else keys
        attended, weights = self.attention(queries, keys, values, output_attentions=output_attentions)
        if self.formulation == "release":
            attended = queries + attended
        if weights is not None:
            weights = weights.unflatten(-1, grid)
        return self.readout(attended), weights

    def position_tables(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Position tables of a grid, (B, T, H, W, D); the same for every question, so they are kept."""
        _, *grid, width = features.shape
        if torch.compiler.is_compiling() or features.is_meta:
            return axis_tables(tuple(grid), width, self.formulation, device=features.device)
        key = (*grid, features.device)
        if key not in self._tables:
            if len(self._tables) == MAX_TABLES:
                self._tables.pop(next(iter(self._tables)))
            with torch.inference_mode(False):  # they may serve a later training step
                self._tables[key] = axis_tables(tuple(grid), width, self.formulation, device=features.device)
        return self._tables[key]
