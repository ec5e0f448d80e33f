"""What 4- and 8-bit loading leaves in full precision."""

import copy
import logging

# Parts that quantization leaves alone: they are small beside the LLM, and everything the LLM sees goes through them.
UNQUANTIZED = ("model.vision_tower", "model.instruction_encoder", "model.compressor", "lm_head")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    """False for what bitsandbytes says on some CPUs when peft imports it, though nothing is quantized: "install kernels"."""
    return "kernels-community" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_no_advertisement)


def spare_from_quantization(quantization_config):
    """Add `UNQUANTIZED` to the modules that a quantization config leaves alone.

    Args:
        quantization_config: a config object or dictionary of transformers; it is not changed.
    """
    config = copy.deepcopy(quantization_config)
    fields = config if isinstance(config, dict) else vars(config)
    is_bitsandbytes = any(
        name in fields for name in ("llm_int8_skip_modules", "load_in_8bit", "load_in_4bit", "_load_in_8bit")
    )
    name = "llm_int8_skip_modules" if is_bitsandbytes else "modules_to_not_convert"
    spared = fields.get(name) or []
    fields[name] = [*spared, *(module for module in UNQUANTIZED if module not in spared)]
    return config
