"""The two-layer MLP that the compressor uses for readouts, injections and adapters."""

import torch
from torch import nn
from transformers import initialization as init

INIT_STD = 0.02  # standard deviation of the truncated normal that new weights are drawn from (official release)


class HiComMLP(nn.Module):
    """Linear, exact GELU, linear, with biases.

    Source: paper, section 3.1 ("a MLP"); two layers and the exact (erf) GELU as in the official release.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int):
        super().__init__()
        self.linear_1 = nn.Linear(input_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, output_size)

    def init_weights(self):
        for linear in (self.linear_1, self.linear_2):
            init.trunc_normal_(linear.weight, std=INIT_STD)
            init.zeros_(linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., input_size) -> (..., output_size)."""
        return self.linear_2(nn.functional.gelu(self.linear_1(hidden)))
