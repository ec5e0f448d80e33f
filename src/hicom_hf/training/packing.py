"""Whether an LLM keeps samples apart that lie end to end in one row."""

from typing import cast

import torch
from torch import nn

from ..modeling.modeling_hicom import HiComForConditionalGeneration

LENGTHS = (5, 7)  # tokens of the two texts that are tried
TOLERANCE = {
    torch.float32: 1e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}  # of the largest value: sums in another order


@torch.no_grad()
def check_packing(model: HiComForConditionalGeneration) -> None:
    """Refuse an LLM, or a kind of attention, that mixes samples of one row: two texts are read packed and alone.

    Restarting positions tell samples apart in every decoder whose mask transformers makes. Recurrent layers, convolutions and
    attention that ignores the mask carry something over.

    Raises:
        ValueError: the second text depends on the first one, or is not what it is alone.
    """
    llm: nn.Module = model.model.language_model
    was_training = llm.training
    llm.eval()
    embeddings = cast(nn.Embedding, model.get_input_embeddings())
    count = embeddings.num_embeddings
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(count, (1, length), generator=generator) for length in (*LENGTHS, LENGTHS[0])]
    first, second, other = (embeddings(row.to(embeddings.weight.device)) for row in ids)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None].to(first.device)
    try:
        packed, changed = (
            llm(inputs_embeds=torch.cat([before, second], dim=1), position_ids=positions, use_cache=False)[0]
            for before in (first, other)
        )
        alone = llm(inputs_embeds=second, use_cache=False)[0]
    finally:
        llm.train(was_training)
    packed, changed = packed[:, LENGTHS[0] :].float(), changed[:, LENGTHS[0] :].float()
    bound = TOLERANCE.get(alone.dtype, 5e-2) * float(alone.abs().max())
    leak = float((packed - changed).abs().max())
    difference = float((packed - alone.float()).abs().max())
    if not (leak <= bound and difference <= bound):
        attention = model.config.text_config._attn_implementation
        raise ValueError(
            f"data.packing must be false: {type(llm).__name__} with {attention} attention does not keep samples of one row "
            f"apart (a text's hidden states differ by {max(leak, difference):.2g} from those that it has alone)"
        )
