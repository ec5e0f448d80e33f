"""Official HICom checkpoints to ours: the only place that knows the official names and option strings."""

from importlib import import_module

# Imported when asked for: the instruction tokenizer alone, which `hicom init` needs, should not load all the rest.
_HOMES = {
    "Conversion": "converting",
    "OfficialSource": "official_sources",
    "ParityRun": "parity",
    "ProjectorPlan": "projector_string",
    "UnreleasedOptionError": "projector_string",
    "build_official_compressor": "official_config",
    "convert_official_checkpoint": "converting",
    "fast_instruction_tokenizer": "instruction_tokenizer",
    "find_cases": "parity",
    "parse_projector_string": "projector_string",
    "projector_plan": "official_config",
    "tokenizer_differences": "instruction_tokenizer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
