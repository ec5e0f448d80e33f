"""Multi-head cross-attention of the compressor, through transformers' attention interface.

Letters: B batch, Q queries, N keys, D width.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .mlp_hicom import INIT_STD

DEFAULT_IMPLEMENTATION = "sdpa"  # transformers' default, where no implementation is requested
HEAD_SIZE = 128  # channels per head; a width below 128 gets one head (official release)


def num_heads(width: int) -> int:
    """Number of heads of `HEAD_SIZE` channels for a width D, at least one.

    Raises:
        ValueError: if the heads do not divide the width.
    """
    heads = max(width // HEAD_SIZE, 1)
    if width % heads:
        raise ValueError(
            f"a width of {width} does not divide into {heads} heads; use a width below {2 * HEAD_SIZE} or a multiple of "
            f"{HEAD_SIZE}"
        )
    return heads


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(query key^T * scaling) value, the softmax in at least float32; no mask, no dropout.

    Args:
        query: (B, heads, Q, D / heads); key, value: (B, heads, N, D / heads).

    Returns:
        (B, Q, heads, D / heads) and the weights (B, heads, Q, N).
    """
    scores = query @ key.transpose(-1, -2) * scaling
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class HiComCrossAttention(nn.Module):
    """Attention from a few queries to many keys, with biased q/k/v/output projections, no mask and no residual.

    Args:
        width: D.
        config: any config; its `_attn_implementation` chooses eager, sdpa, flex or flash attention, also after the module is
            made. transformers' attention functions read it from the module, so it is not a plain value.

    Source: paper, equations 2 and 4; heads of width 128 and biased projections from the official release.
    """

    is_causal = False

    def __init__(self, width: int, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.num_heads = num_heads(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def init_weights(self):
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            init.trunc_normal_(linear.weight, std=INIT_STD)
            init.zeros_(linear.bias)

    @property
    def implementation(self) -> str:
        """The name of the attention function, as in transformers."""
        return self.config._attn_implementation or DEFAULT_IMPLEMENTATION

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            queries: (B, Q, D).
            keys, values: (B, N, D), or (1, N, D) for all rows.
            output_attentions: compute with eager attention, independent of the config, and return the weights.

        Returns:
            (B, Q, D), and the weights (B, heads, Q, N) or None.
        """
        if self._projects_queries(queries.shape[1]):
            return self._attend_by_queries(queries, keys, values, output_attentions)
        q, k, v = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, Q or N, D / heads)
            for projection, hidden in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        k, v = (hidden.expand(len(q), -1, -1, -1) for hidden in (k, v))  # one video may serve several instructions
        attend = eager_attention
        if not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.implementation, eager_attention)
        attended, weights = attend(self, q, k, v, None, scaling=q.shape[-1] ** -0.5, dropout=0.0, is_causal=False)
        return self.out_proj(attended.flatten(2)), weights if output_attentions else None

    def _projects_queries(self, num_queries: int) -> bool:
        """Whether it is less work to project the queries to the keys' side.

        Disabled where a projection is not a plain Linear (LoRA, quantised), or where its weights are loaded on demand
        (offloading).
        """
        plain = all(type(linear) is nn.Linear and not linear.weight.is_meta for linear in (self.k_proj, self.v_proj))
        width = self.k_proj.in_features
        less = self.num_heads * num_queries < width + num_queries
        return plain and less and self.implementation in ("eager", "sdpa")

    def _attend_by_queries(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same numbers without projected keys and values, of which there are many.

        q (W_k k + b_k) = (q W_k) k + q b_k. The weights w of a query sum to 1, so sum w (W_v v + b_v) = W_v (sum w v) + b_v.
        """
        q = self.q_proj(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, Q, D / heads)
        k_weight, v_weight = (
            linear.weight.unflatten(0, (self.num_heads, -1)) for linear in (self.k_proj, self.v_proj)
        )  # (heads, D / heads, D)
        k_bias = self.k_proj.bias.unflatten(0, (self.num_heads, -1))[..., None]  # (heads, D / heads, 1)
        scores = (q @ k_weight).flatten(1, 2) @ keys.transpose(-1, -2)  # (B, heads * Q, N)
        # k_bias cancels in the softmax. It is kept so that its gradient exists; DDP would otherwise report an unused parameter.
        # In place: of a long video, new memory costs more than the numbers.
        scores.add_((q @ k_bias).flatten(1, 2)).mul_(q.shape[-1] ** -0.5)
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
        seen = (weights @ values).unflatten(1, (self.num_heads, -1))  # (B, heads, Q, D)
        attended = (seen @ v_weight.transpose(-1, -2)).transpose(1, 2).flatten(2) + self.v_proj.bias  # (B, Q, D)
        return self.out_proj(attended), weights.unflatten(1, (self.num_heads, -1)) if output_attentions else None
