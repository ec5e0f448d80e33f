"""Official tensor names and ours, in one table.

Letters in the table: a rule is a regular expression for the whole official name and our name, `None` for what is dropped on
purpose. The first rule that matches decides.
"""

import re

# Projector tensors, relative to the projector; ours relative to the compressor.
PROJECTOR_RULES = (
    (r"(local|global)_compressor\.readout\.0\.(weight|bias)", r"\1_branch.readout.linear_1.\2"),
    (r"(local|global)_compressor\.readout\.2\.(weight|bias)", r"\1_branch.readout.linear_2.\2"),
    (r"global_compressor\.query", r"global_branch.queries"),
    (r"global_compressor\.attn_layer\.(q|k|v|out)_proj\.(weight|bias)", r"global_branch.attention.\1_proj.\2"),
    (r"(local|global)_compressor\.guide_injector\.coarse_proj\.0\.(.+)", r"\1_branch.injection.mlp.linear_1.\2"),
    (r"(local|global)_compressor\.guide_injector\.coarse_proj\.2\.(.+)", r"\1_branch.injection.mlp.linear_2.\2"),
    (r"(local|global)_compressor\.guide_injector\.(?:coarse|fine)_norm\.(.+)", r"\1_branch.injection.norm.\2"),
    (r"(local|global)_compressor\.guide_injector\.fine_proj\.(.+)", r"\1_branch.injection.attention.\2"),
    (r"local_compressor\.k_alpha", r"local_branch.key_adapter.alpha"),
    (r"local_compressor\.k_proj\.0\.(.+)", r"local_branch.key_adapter.mlp.linear_1.\1"),
    (r"local_compressor\.k_proj\.2\.(.+)", r"local_branch.key_adapter.mlp.linear_2.\1"),
    (r"local_compressor\.k_norm\.(.+)", r"local_branch.key_adapter.norm.\1"),
    (r"local_compressor\.v_alpha", r"local_branch.value_adapter.alpha"),
    (r"local_compressor\.v_proj\.0\.(.+)", r"local_branch.value_adapter.mlp.linear_1.\1"),
    (r"local_compressor\.v_proj\.2\.(.+)", r"local_branch.value_adapter.mlp.linear_2.\1"),
    (r"local_compressor\.v_norm\.(.+)", r"local_branch.value_adapter.norm.\1"),
)

# Tensors of a whole checkpoint, of a base LLM and of a SigLIP.
RULES = (
    # Buffers that older versions of transformers saved; they hold no weights.
    (r".+\.rotary_emb\.inv_freq", None),
    (r"(?:.+\.)?embeddings\.position_ids", None),
    # SigLIP's own contrastive head, in the file of a base SigLIP.
    (r"(?:model\.vision_tower\.(?:vision_tower|guide_encoder)\.)?logit_(?:scale|bias)", None),
    (r"(?:model\.vision_tower\.vision_tower\.)?vision_model\.(.+)", r"model.vision_tower.\1"),
    (r"(?:model\.vision_tower\.guide_encoder\.)?text_model\.(.+)", r"model.instruction_encoder.\1"),
    *((r"model\.mm_projector\." + official, "model.compressor." + ours) for official, ours in PROJECTOR_RULES),
    (r"model\.(embed_tokens|layers|norm)\.(.+)", r"model.language_model.\1.\2"),
    (r"lm_head\.weight", r"lm_head.weight"),
)

# Tensors of unreleased experiments: refused by name rather than reported as unknown.
EXPERIMENTS = (
    (r".*local_compressor\.q_(?:alpha|proj|norm)\b.*", "query adapters (adaptq)"),
    (r".*guide_injector\.guide_(?:alpha|proj|norm)\b.*", "instruction adapters (adaptg)"),
    (r".*text2qk_proj\b.*", "another text width (text2qk_proj)"),
    (r".*(?:local|global)_logit_(?:scale|bias)", "logit scale (use_clip_scale)"),
    (r".*image_newline", "newline tokens (image_newline)"),
)


def our_name(official: str, rules: tuple = RULES) -> str | None:
    """Our name of an official tensor, or None for one that is dropped on purpose.

    Raises:
        KeyError: if no rule knows the name.
    """
    for pattern, ours in rules:
        found = re.fullmatch(pattern, official)
        if found:
            return None if ours is None else found.expand(ours)
    raise KeyError(official)


def experiment_of(official: str) -> str | None:
    """The unreleased experiment that a tensor belongs to, in words, or None."""
    return next((words for pattern, words in EXPERIMENTS if re.fullmatch(pattern, official)), None)
