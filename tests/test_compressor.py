"""Both branches against naive loops, one query and one key at a time, written from the equations.

The loops use Python floats of float64 tensors and nothing of the code under test but the list of a group's members.
Tolerance: 1e-10, float64 rounding of sums over up to 700 terms.
"""

import itertools
import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from hicom_hf.modeling.attention_hicom import HiComCrossAttention
from hicom_hf.modeling.compressor_hicom import HiComCompressor
from hicom_hf.modeling.configuration_hicom import HiComCompressorConfig
from hicom_hf.modeling.grouping_hicom import group_positions, group_spans
from hicom_hf.modeling.injection_hicom import HiComDirectInjection
from hicom_hf.modeling.mlp_hicom import HiComMLP
from hicom_hf.modeling.positions_hicom import HiComPositions, HiComReleasePositions

WIDTH, OUTPUT, LENGTH = 16, 12, 5
FORMULATIONS = ("paper", "release")
INJECTIONS = ("none", "direct", "coarse", "fine")


def make(grid=(5, 4, 4), width=WIDTH, seed=0, **fields):
    """A float64 compressor with weights of every size, and inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    config = HiComCompressorConfig(**{"num_global_tokens": 3, "ratio": (2, 3, 2), **fields})
    compressor = HiComCompressor(config, width, OUTPUT).double().eval()
    for parameter in compressor.parameters():
        std = 1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.4
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    features, aligned = torch.randn(2, 2, *grid, width, generator=generator, dtype=torch.float64)
    pooled = torch.randn(2, width, generator=generator, dtype=torch.float64)
    tokens = torch.randn(2, LENGTH, width, generator=generator, dtype=torch.float64)
    return compressor, features, aligned, (pooled, tokens)


def mlp(module, x):
    hidden = gelu(x @ module.linear_1.weight.T + module.linear_1.bias)
    return hidden @ module.linear_2.weight.T + module.linear_2.bias


def norm(module, x):
    return layer_norm(x, x.shape[-1:], module.weight, module.bias, eps=1e-6)


def attend(query, keys, values):
    """softmax(q k / sqrt(d)) v of one query, a key at a time."""
    scores = [math.exp(float(query @ key) / math.sqrt(len(query))) for key in keys]
    return sum(score / sum(scores) * value for score, value in zip(scores, values, strict=True))


def multi_head(module, query, keys, values, heads):
    project = lambda linear, x: x @ linear.weight.T + linear.bias  # noqa: E731
    q = project(module.q_proj, query).chunk(heads)
    ks = [project(module.k_proj, key).chunk(heads) for key in keys]
    vs = [project(module.v_proj, value).chunk(heads) for value in values]
    per_head = [attend(q[h], [k[h] for k in ks], [v[h] for v in vs]) for h in range(heads)]
    return project(module.out_proj, torch.cat(per_head))


def inject(module, kind, formulation, query, pooled, tokens, heads=1):
    """Inj(A, C) for one query; method.md and official_release.md, section 2."""
    if kind == "none":
        return query
    if kind == "direct":
        return mlp(module.mlp, pooled) if formulation == "paper" else pooled
    if kind == "coarse":
        scale, shift = mlp(module.mlp, pooled).chunk(2)
        if formulation == "paper":
            return norm(module.norm, query) * scale + shift
        return norm(module.norm, query * (1 + scale) + shift)
    if formulation == "paper":
        return multi_head(module.attention, norm(module.norm, query), tokens, tokens, heads)
    return norm(module.norm, query + multi_head(module.attention, query, tokens, tokens, heads))


def adapt(branch, name, x):
    module = getattr(branch, name, None)  # the paper's branch has none
    if module is None:
        return x
    return (1 - module.alpha) * x + module.alpha * norm(module.norm, mlp(module.mlp, x))


def trilinear(features, size, cell):
    """Trilinear resize at one cell: half-pixel centres, corners not aligned."""
    value = 0
    axes = []
    for index, new, old in zip(cell, size, features.shape[:3], strict=True):
        position = max((index + 0.5) * old / new - 0.5, 0)
        low = min(int(position), old - 1)
        high = min(low + 1, old - 1)
        axes.append([(low, 1 - (position - low)), (high, position - low)])
    for corners in itertools.product(*axes):
        weight = math.prod(share for _, share in corners)
        value = value + weight * features[tuple(index for index, _ in corners)]
    return value


def naive_local(branch, config, features, aligned, pooled, tokens):
    spans = [group_spans(size, ratio) for size, ratio in zip(features.shape[:3], config.ratio, strict=True)]
    everywhere = [whole.flatten(0, 2) for whole in (features, aligned)]
    guided = config.local_injection != "none" or config.formulation == "release"  # release: whenever they are given
    rows = []
    for cell in itertools.product(*(range(len(axis)) for axis in spans)):
        slices = tuple(slice(*spans[axis][index]) for axis, index in enumerate(cell))
        members = features[slices].reshape(-1, features.shape[-1])
        if config.formulation == "paper":
            query = members.mean(dim=0)
        else:
            query = trilinear(features, [len(axis) for axis in spans], cell)
        query = inject(branch.injection, config.local_injection, config.formulation, query, pooled, tokens)
        keys = aligned[slices].reshape(-1, features.shape[-1]) if guided else members
        if not config.grouping:
            keys, members = everywhere[1] if guided else everywhere[0], everywhere[0]
        keys = [adapt(branch, "key_adapter", key) for key in keys]
        values = [adapt(branch, "value_adapter", value) for value in members]
        rows.append(mlp(branch.readout, attend(query, keys, values)))
    return torch.stack(rows)


def naive_global(branch, config, features, pooled, tokens, heads=1):
    positions_class = HiComPositions if config.formulation == "paper" else HiComReleasePositions
    positions = positions_class().embedding(features.shape[:3], features.shape[-1])
    moved = (features + positions).flatten(0, 2)
    values = features.flatten(0, 2) if config.formulation == "paper" else moved
    rows = []
    for query in branch.queries:
        query = inject(branch.injection, config.global_injection, config.formulation, query, pooled, tokens, heads)
        attended = multi_head(branch.attention, query, moved, values, heads)
        rows.append(mlp(branch.readout, attended if config.formulation == "paper" else query + attended))
    return torch.stack(rows)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("injection", INJECTIONS)
@torch.no_grad()
def test_local_branch_equals_the_naive_loop(formulation, injection):
    compressor, features, aligned, instruction = make(
        formulation=formulation, local_injection=injection, global_injection="none", num_global_tokens=0
    )
    tokens, _ = compressor(features, aligned, instruction)
    for row in range(2):
        expected = naive_local(
            compressor.local_branch,
            compressor.config,
            features[row],
            aligned[row],
            *(part[row] for part in instruction),
        )
        torch.testing.assert_close(tokens[row], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("injection", ["none", "coarse", "fine"])
@torch.no_grad()
def test_without_grouping_every_local_query_attends_to_the_whole_video(injection):
    compressor, features, aligned, instruction = make(
        local_injection=injection, global_injection="none", num_global_tokens=0, grouping=False
    )
    tokens, attentions = compressor(features, aligned, instruction, output_attentions=True)
    for row in range(2):
        condition = (part[row] for part in instruction)
        expected = naive_local(compressor.local_branch, compressor.config, features[row], aligned[row], *condition)
        torch.testing.assert_close(tokens[row], expected, atol=1e-10, rtol=0)
    patches = features[0, ..., 0].numel()
    assert attentions.local_weights.shape == (2, tokens.shape[1], patches)
    assert attentions.local_positions.shape == (tokens.shape[1], patches, 3)
    assert attentions.local_positions[1, -1].tolist() == [size - 1 for size in features.shape[1:4]]


@pytest.mark.parametrize("keys, values", [(True, True), (True, False), (False, True)])
@torch.no_grad()
def test_local_branch_with_gated_adapters_equals_the_naive_loop(keys, values):
    compressor, features, aligned, instruction = make(
        formulation="release", key_adapter=keys, value_adapter=values, global_injection="none", num_global_tokens=0
    )
    tokens, _ = compressor(features, aligned, instruction)
    expected = naive_local(
        compressor.local_branch, compressor.config, features[0], aligned[0], *(p[0] for p in instruction)
    )
    torch.testing.assert_close(tokens[0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "formulation, injection",
    [pair for pair in itertools.product(FORMULATIONS, INJECTIONS) if pair != ("paper", "direct")],
)
@torch.no_grad()
def test_global_branch_equals_the_naive_loop(formulation, injection):
    compressor, features, aligned, instruction = make(
        formulation=formulation, local_branch=None, local_injection="none", global_injection=injection
    )
    tokens, _ = compressor(features, aligned, instruction)
    for row in range(2):
        expected = naive_global(
            compressor.global_branch, compressor.config, features[row], *(part[row] for part in instruction)
        )
        torch.testing.assert_close(tokens[row], expected, atol=1e-10, rtol=0)


@torch.no_grad()
def test_global_branch_has_heads_of_128_channels():
    compressor, features, aligned, instruction = make(
        grid=(2, 2, 2), width=256, local_branch=None, local_injection="none", global_injection="fine"
    )
    tokens, _ = compressor(features, aligned, instruction)
    expected = naive_global(
        compressor.global_branch, compressor.config, features[0], *(p[0] for p in instruction), heads=2
    )
    torch.testing.assert_close(tokens[0], expected, atol=1e-10, rtol=0)


class ProjectedKeys(HiComCrossAttention):
    """The attention as the formula is written."""

    def _projects_queries(self, num_queries):
        return False


def attention_pair(implementation):
    """The same attention of two heads, with few queries projected and with all keys projected, in float64."""
    config = HiComCompressorConfig()
    config._attn_implementation = implementation
    torch.manual_seed(0)
    one, other = HiComCrossAttention(256, config).double(), ProjectedKeys(256, config).double()
    for parameter in one.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    other.load_state_dict(one.state_dict())
    return one, other


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_projecting_few_queries_gives_the_numbers_and_gradients_of_projecting_many_keys(implementation):
    pair = attention_pair(implementation)
    assert pair[0]._projects_queries(5) and not pair[0]._projects_queries(400)
    queries, keys, values = (torch.randn(2, count, 256, dtype=torch.float64) for count in (5, 90, 90))
    outputs = [attention(queries, keys, values, output_attentions=True) for attention in pair]
    for got, expected in zip(*outputs, strict=True):  # attended, weights
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)
    for attended, _ in outputs:
        attended.square().sum().backward()
    for (name, parameter), other in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, atol=1e-9, rtol=0, msg=name)


def test_projections_that_are_more_than_their_weights_are_called():
    class Adapted(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) + 1.0

    attention, _ = attention_pair("sdpa")
    queries, keys = torch.randn(1, 3, 256).double(), torch.randn(1, 50, 256).double()
    before = attention(queries, keys, keys)[0]
    adapted = Adapted(256, 256).double()
    adapted.load_state_dict(attention.v_proj.state_dict())
    attention.v_proj = adapted
    added = attention(queries, keys, keys)[0] - before
    torch.testing.assert_close(added, attention.out_proj.weight.sum(1).expand_as(added), atol=1e-10, rtol=0)


@torch.no_grad()
def test_average_pool_is_the_readout_of_the_group_mean():
    compressor, features, _, _ = make(
        local_branch="average_pool", local_injection="none", num_global_tokens=0, global_injection="none"
    )
    tokens, attentions = compressor(features, output_attentions=True)
    members = features[0, :2, :3, :2].reshape(-1, WIDTH)  # the first group of ratio (2, 3, 2)
    torch.testing.assert_close(tokens[0, 0], mlp(compressor.local_branch.readout, members.mean(0)), atol=1e-12, rtol=0)
    assert attentions.local_weights is None


@torch.no_grad()
def test_local_tokens_come_before_global_tokens():
    compressor, features, aligned, instruction = make(global_injection="coarse")
    tokens, _ = compressor(features, aligned, instruction)
    local, _ = compressor.local_branch(features, aligned, instruction)
    searched, _ = compressor.global_branch(features, instruction)
    assert torch.equal(tokens, torch.cat([local, searched], dim=1))
    assert tokens.shape[1] == compressor.config.num_tokens((5, 4, 4))


@torch.no_grad()
def test_bypassed_injection_equals_an_unconditional_compressor():
    compressor, features, aligned, instruction = make(bypass_injection=True)
    plain, *_ = make(local_injection="none", global_injection="none")
    plain.load_state_dict({name: t for name, t in compressor.state_dict().items() if ".injection." not in name})
    assert torch.equal(compressor(features, aligned, instruction)[0], plain(features, None, None)[0])


@torch.no_grad()
def test_the_direct_global_branch_of_the_release_makes_equal_tokens():
    compressor, features, aligned, instruction = make(formulation="release", global_injection="direct")
    tokens = compressor(features, aligned, instruction)[0][:, -3:]
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), atol=1e-12, rtol=0)


@pytest.mark.parametrize("injection", ["direct", "coarse", "fine"])
@torch.no_grad()
def test_another_instruction_gives_other_tokens(injection):
    global_injection = "coarse" if injection == "direct" else injection
    compressor, features, aligned, instruction = make(local_injection=injection, global_injection=global_injection)
    one, _ = compressor(features, aligned, instruction)
    other, _ = compressor(features, aligned, tuple(part.flip(0) for part in instruction))
    assert (one - other).abs().amax(-1).min() > 1e-3  # every single token moves


@pytest.mark.parametrize("formulation", FORMULATIONS)
@torch.no_grad()
def test_attention_maps_back_to_frames_rows_and_columns(formulation):
    compressor, features, aligned, instruction = make(grid=(5, 4, 4), formulation=formulation)
    tokens, attentions = compressor(features, aligned, instruction, output_attentions=True)
    assert torch.allclose(tokens, compressor(features, aligned, instruction)[0], atol=1e-12)
    frame, row, column = attentions.local_positions.unbind(-1)
    values = features[0, frame, row, column]  # (G, K, D)
    pooled = (attentions.local_weights[0][..., None] * values).sum(1)
    torch.testing.assert_close(
        mlp(compressor.local_branch.readout, pooled), tokens[0, : len(pooled)], atol=1e-10, rtol=0
    )
    assert attentions.global_weights.shape == (2, 1, 3, 5, 4, 4)
    assert torch.allclose(attentions.global_weights.sum(dim=(-3, -2, -1)), torch.ones((), dtype=torch.float64))
    assert torch.equal(attentions.local_positions, group_positions((5, 4, 4), (2, 3, 2)))


@torch.no_grad()
def test_a_new_direct_injection_is_the_identity():
    injection = HiComDirectInjection(WIDTH)
    injection.init_weights()
    pooled = torch.randn(4, WIDTH)
    # float32: GELU(x) - GELU(-x) = x up to the rounding of two products
    torch.testing.assert_close(injection(None, pooled, None)[:, 0], pooled, atol=1e-5, rtol=0)


@torch.no_grad()
def test_new_models_start_as_method_md_says():
    from hicom_hf.assembly.random_model import tiny_config
    from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration

    torch.manual_seed(0)
    compressor = HiComForConditionalGeneration(tiny_config()).model.compressor
    direct, coarse = compressor.local_branch.injection.mlp, compressor.global_branch.injection.mlp
    eye = torch.eye(64)
    assert torch.equal(direct.linear_1.weight, torch.cat([eye, -eye]))
    assert torch.equal(direct.linear_2.weight, torch.cat([eye, -eye], dim=1))
    assert torch.equal(coarse.linear_2.bias, torch.cat([torch.ones(64), torch.zeros(64)]))
    assert not coarse.linear_2.weight.any()
    assert compressor.global_branch.queries.std().item() == pytest.approx(0.02, rel=0.2)
    released = HiComForConditionalGeneration(tiny_config(formulation="release")).model.compressor
    assert not released.global_branch.queries.any()
    assert released.global_branch.injection.mlp.linear_2.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not list(released.local_branch.injection.parameters())
    for name, parameter in released.named_parameters():
        assert not name.endswith("linear_1.bias") or not parameter.any()


def test_parameter_counts_of_the_paper_and_of_the_release():
    def count(**fields):
        with torch.device("meta"):
            return sum(p.numel() for p in HiComCompressor(HiComCompressorConfig(**fields), 1152, 3584).parameters())

    # method.md ("below 52.6M") and the table of official_release.md, section 1
    assert count() == 52_593_280
    assert count(formulation="release", global_injection="direct") == 39_311_872
    assert count(formulation="release") == 47_281_408
    assert count(formulation="release", global_injection="fine") == 44_627_200
    assert count(formulation="release", local_injection="coarse") == 55_250_944
    adapters = {"key_adapter": True, "value_adapter": True}
    assert count(formulation="release", global_injection="direct", **adapters) == 44_629_506


def test_mlp_uses_the_exact_gelu():
    module = HiComMLP(1, 1, 1)
    with torch.no_grad():
        for linear in (module.linear_1, module.linear_2):
            linear.weight.fill_(1)
            linear.bias.zero_()
    assert module(torch.tensor([1.0])).item() == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=1e-6)
