"""What the compressor costs at the paper's size, and what three shortcuts of it save.

The global branch projects its 32 queries to the side of the 23,328 patches in place of projecting the patches. The local branch,
where one query serves all groups (direct injection), collects scores in groups in place of keys. From the second question about
a video on, its groups and positions are kept. None changes a number.

In: nothing (random weights and features). Out: a table with milliseconds and the ratio to the same branch without the shortcut,
measured in turn in the same run, and the largest difference of the results.

    python benchmarks/compressor.py [--frames 32] [--runs 5]
"""

import argparse
import statistics
import time
from math import prod

import torch

from hicom_hf.modeling.attention_hicom import HiComCrossAttention
from hicom_hf.modeling.compressor_hicom import HiComCompressor
from hicom_hf.modeling.configuration_hicom import HiComCompressorConfig
from hicom_hf.modeling.global_hicom import HiComGlobalBranch
from hicom_hf.modeling.grouping_hicom import num_groups
from hicom_hf.modeling.injection_hicom import HiComCoarseInjection, HiComDirectInjection
from hicom_hf.modeling.local_hicom import HiComLocalBranch

WIDTH, OUTPUT, SIDE, QUERIES = 1152, 896, 27, 32


class ProjectedKeys(HiComCrossAttention):
    """The attention as the formula is written: keys and values are projected."""

    def _projects_queries(self, num_queries: int) -> bool:
        return False


class CollectedKeys(HiComLocalBranch):
    """The local branch with keys collected in groups."""

    def scores(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        groups = prod(num_groups(tuple(keys.shape[1:4]), self.ratio))
        return super().scores(queries.expand(-1, groups, -1), keys)


def in_turn(functions: list, runs: int) -> list[float]:
    """Median seconds of each, one run of each in turn; the first round warms up."""
    times = [[] for _ in functions]
    for _ in range(runs + 1):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [statistics.median(own[1:]) for own in times]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=32, help="frames of the video")
    parser.add_argument("--runs", type=int, default=5, help="runs per row, of which the median counts")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = HiComCompressorConfig()
    features = torch.randn(1, arguments.frames, SIDE, SIDE, WIDTH)
    instruction = torch.randn(1, WIDTH), torch.randn(1, 64, WIDTH)

    branch, slow_branch = (
        HiComGlobalBranch(WIDTH, OUTPUT, QUERIES, HiComCoarseInjection(WIDTH), attention(WIDTH, config))
        for attention in (HiComCrossAttention, ProjectedKeys)
    )
    local, slow_local = (
        branch_class(WIDTH, OUTPUT, (4, 3, 3), HiComDirectInjection(WIDTH))
        for branch_class in (HiComLocalBranch, CollectedKeys)
    )
    for one, other in ((branch, slow_branch), (local, slow_local)):
        other.load_state_dict(one.state_dict())
    rows = {
        "global": (lambda: branch(features, instruction)[0], lambda: slow_branch(features, instruction)[0]),
        "local": (
            lambda: local(features, features, instruction)[0],
            lambda: slow_local(features, features, instruction)[0],
        ),
    }
    whole = HiComCompressor(config, WIDTH, OUTPUT).eval()
    parts = whole.video_parts(features)
    rows["kept"] = (
        lambda: whole(features, features, instruction, parts=parts)[0],
        lambda: whole(features, features, instruction)[0],
    )
    print(f"{'branch':<10}{'ms':>10}{'without shortcut':>20}{'ratio':>8}{'difference':>14}")
    for name, (fast, slow) in rows.items():
        difference = (fast() - slow()).abs().max().item()
        seconds, reference = in_turn([fast, slow], arguments.runs)
        print(
            f"{name:<10}{seconds * 1e3:>10.0f}{reference * 1e3:>20.0f}{seconds / reference:>8.2f}{difference:>14.1e}"
        )


if __name__ == "__main__":
    main()
