"""The global branch: a few learnable tokens search the whole video.

Letters: B batch, T frames, H/W patch rows and columns, N = T * H * W patches, D vision width, C LLM width, Q queries.
"""

import torch
from torch import nn
from transformers import initialization as init

from .attention_hicom import HiComCrossAttention
from .injection_hicom import HiComInjection
from .mlp_hicom import INIT_STD, HiComMLP
from .positions_hicom import HiComPositions, HiComReleasePositions


class HiComGlobalBranch(nn.Module):
    """Z_g = Attn[Inj(L, C), V + Pos(V), V]: learnable tokens L, given the instruction, attend to every patch.

    Args:
        width: D.
        output_size: C.
        num_queries: Q.
        injection: how the instruction enters the learnable tokens; None for not at all.
        attention: of width D.

    Source: paper, equation 2.
    """

    def __init__(
        self,
        width: int,
        output_size: int,
        num_queries: int,
        injection: HiComInjection | None,
        attention: HiComCrossAttention,
    ):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(num_queries, width))
        self.positions = HiComPositions()
        self.injection = injection
        self.attention = attention
        self.readout = HiComMLP(width, output_size, output_size)

    def init_weights(self):
        init.normal_(self.queries, std=INIT_STD)

    def forward(
        self,
        features: torch.Tensor,
        instruction: tuple[torch.Tensor, torch.Tensor] | None,
        output_attentions: bool = False,
        keys: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compress.

        Args:
            features: (B, T, H, W, D), SigLIP's second-to-last layer; or (1, T, H, W, D) for B instructions.
            instruction: pooled (B, D) and tokens (B, L, D), or None to compress unconditionally.
            output_attentions: return the weights, too.
            keys: (B, N, D), what `keys` made of the features before; None computes it.

        Returns:
            Tokens (B, Q, C), and the weights (B, heads, Q, T, H, W) or None.
        """
        batch = (
            len(features) if instruction is None else len(instruction[0])
        )  # one video may serve several instructions
        queries = self.queries[None].expand(batch, -1, -1)
        if instruction is not None and self.injection is not None:
            queries = self.injection(queries, *instruction).expand(-1, len(self.queries), -1)  # (B, Q, D)
        keys = self.keys(features) if keys is None else keys
        attended, weights = self.attend(queries, keys, features.flatten(1, 3), output_attentions)
        if weights is not None:
            weights = weights.unflatten(-1, features.shape[1:4])
        return self.readout(attended), weights

    def keys(self, features: torch.Tensor) -> torch.Tensor:
        """V + Pos(V), the same for every instruction: (B, T, H, W, D) -> (B, N, D)."""
        return self.positions(features).flatten(1, 3)

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """queries (B, Q, D), keys and values (B, N, D) -> (B, Q, D), and the weights (B, heads, Q, N) or None."""
        return self.attention(queries, keys, values, output_attentions=output_attentions)


class HiComReleaseGlobalBranch(HiComGlobalBranch):
    """Z_g = Q + Attn[Q, V + Pos(V), V + Pos(V)], Q = Inj(L, C); the learnable tokens L start as zeros.

    With direct injection all of its tokens are equal.

    Source: official release, global compressor.
    """

    def __init__(
        self,
        width: int,
        output_size: int,
        num_queries: int,
        injection: HiComInjection | None,
        attention: HiComCrossAttention,
    ):
        super().__init__(width, output_size, num_queries, injection, attention)
        self.positions = HiComReleasePositions()

    def init_weights(self):
        init.zeros_(self.queries)

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.attention(queries, keys, keys, output_attentions=output_attentions)
        return queries + attended, weights
