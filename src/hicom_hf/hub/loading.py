"""Load a model with every mistake named: what is missing, where, and what to do about it.

Cheap checks that can fail come before the weights are loaded:

    place = find_model("somebody/hicom-7b@v1.0")
    check_options(device="cuda", quantize="nf4")
    config, processor = load_config(place), load_processor(place)
    check_fits(config, processor, place)
    model = load_model(place, "cuda", quantize="nf4")
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_bitsandbytes_available, is_peft_available

from ..modeling.compiling_hicom import (
    FIRST_COMPILING,
    CompileWhenItPays,
    compile_decoding,
    reason_not_to_compile,
    this_torch_compiles,
)
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.parts_hicom import ADAPTED, still_untrained
from ..processors.processing_hicom import HiComProcessor
from .places import Model, ModelPlace, find_model, unreadable
from .reading import WRONG_VALUES, Reading, message_of, read_json_object, shard_names

logger = logging.get_logger(__name__)

WEIGHTS_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LFS_POINTER = b"version https://git-lfs.github.com/spec"
MAX_POINTER_SIZE = 1024  # bytes
UNSAFE_PICKLE = (
    "a file in PyTorch's format holds more than tensors, or is damaged; what else it holds is not run. Use safetensors"
)
MAX_LAYERS = 10_000  # of a tower or LLM; far above every model
MAX_NAMES = 3  # of weights, in a message
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # how accelerate spreads a model
Quantization = Literal["nf4", "int8"]
Compile = Literal["auto", "on", "off"]

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def load_config(model: Model) -> HiComConfig:
    """The config of a HICom model, without its weights; of an adapter, what it makes of its base's.

    Args:
        model: see `find_model`.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no config.json.
        OSError: the repo cannot be reached.
        ValueError: it is another kind of model, or its config is not valid.
    """
    place = find_model(model)
    with Reading(place):
        config = _read_config(place)
    if place.adapter is not None:
        config.untrained_parts = still_untrained(config.untrained_parts, ADAPTED)
    return config


def _read_config(place: ModelPlace) -> HiComConfig:
    try:
        values, _ = PreTrainedConfig.get_config_dict(place.source, revision=place.revision)
    except OSError as error:
        raise unreadable(place, error) from error
    except TypeError as error:  # a number or null
        raise ValueError(f"{place}: config.json must hold a JSON object: {message_of(error)}") from error
    except WRONG_VALUES as error:  # nested too deeply
        raise ValueError(f"{place}: config.json is not valid: {message_of(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{place}: config.json must hold a JSON object, got {type(values).__name__}")
    _check_values(values, place)
    kind = values.get("model_type")
    if kind != HiComConfig.model_type:
        raise ValueError(
            f"{place}: this is a model of type {kind!r}, not a HICom model in this package's format; `hicom convert` takes "
            "the authors' checkpoints, `hicom init` makes a new model from a SigLIP and an LLM"
        )
    try:
        with quiet_transformers():
            return cast(HiComConfig, AutoConfig.from_pretrained(place.source, revision=place.revision))
    except WRONG_VALUES as error:
        raise ValueError(f"{place}: config.json is not valid: {message_of(error)}") from error


def _check_values(values: dict, place: ModelPlace) -> None:
    """Refuse a config that makes transformers load attention code from the Hub, build layers for ever, or compute NaN.

    Raises:
        ValueError: names the field.
    """
    for name, value in values.items():
        if isinstance(value, dict):
            _check_values(value, place)
        elif isinstance(value, str) and "attn_implementation" in name and ("/" in value or ":" in value):
            raise ValueError(
                f"{place}: config.json asks for attention code from elsewhere ({name}={value!r}); remove this field, and "
                "choose the attention when loading, if you trust that code"
            )
        elif isinstance(value, int) and name.endswith("_layers") and value > MAX_LAYERS:
            raise ValueError(f"{place}: config.json is not valid: {name}={value} is more than {MAX_LAYERS}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{place}: config.json is not valid: {name} must be finite, got {value}")


def load_processor(model: Model) -> HiComProcessor:
    """The processor of a HICom model; of an adapter, that of its own folder.

    Args:
        model: see `find_model`.

    Raises:
        FileNotFoundError: there is none.
        OSError: the repo cannot be reached.
        ValueError: its tokenizers do not fit.
    """
    # A folder may hold a processor and no model.
    own = isinstance(model, (str, os.PathLike)) and (Path(model) / "processor_config.json").is_file()
    place = ModelPlace(str(model)) if own else find_model(model)
    source = place.adapter or place.source
    if not _has_file(source, "processor_config.json", place.revision):
        raise FileNotFoundError(
            f"{place}: there is no processor (processor_config.json is missing); save it beside the weights with "
            "processor.save_pretrained"
        )
    try:
        with Reading(place), quiet_transformers():
            revision = None if place.adapter else place.revision
            return HiComProcessor.from_pretrained(source, revision=revision or "main")
    except (*WRONG_VALUES, OSError) as error:
        raise ValueError(f"{place}: the processor cannot be loaded: {message_of(error)}") from error


def load_model(
    model: Model,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    *,
    device_map: str | dict[str, Any] | None = None,
    quantize: Quantization | None = None,
    compile: Compile | bool = False,
) -> HiComForConditionalGeneration:
    """A HICom model with all its weights, in evaluation mode.

    Args:
        model: see `find_model`. An adapter is added to its base's weights, in their type (`hicom merge` adds in float32); to
            quantized ones it stays beside them.
        device: see `choose_device`.
        dtype: one of `DTYPES`; "auto" keeps the saved one, and warns of bfloat16 on a CPU that has no instructions for it.
        attn_implementation: as in transformers; None lets it choose.
        device_map: as in transformers, such as "auto" for several GPUs; in place of `device`. Needs accelerate.
        quantize: "nf4" or "int8" keeps the LLM in 4 or 8 bits; SigLIP, compressor and `lm_head` stay. Needs bitsandbytes.
        compile: True or "on": `generate` writes into a cache of fixed size and compiles its decoding step on first use; "auto":
            once that pays, see `CompileWhenItPays`; False or "off": never.

    Raises:
        FileNotFoundError: there is no such folder, or no weights in it.
        ImportError: a package that an option needs is not installed.
        OSError: the repo cannot be reached.
        ValueError: the config is not valid, options contradict each other, or weights are missing or do not fit.
    """
    place = find_model(model)
    target = check_options(device, device_map, quantize, attn_implementation, compile)
    if place.adapter is not None and not is_peft_available():
        raise ImportError(f"{place}: an adapter needs peft: pip install 'hicom_hf[train]'")
    config = load_config(place)
    options = {
        "attn_implementation": attn_implementation,
        "device_map": device_map if device_map or not quantize else {"": target},
        "quantization_config": quantization_config(quantize),
    }
    loaded = _read_weights(place, config, {name: value for name, value in options.items() if value is not None}, dtype)
    if place.adapter is not None:
        loaded = _add_adapter(loaded, place.adapter, merge=quantize is None)
    if device_map is None and quantize is None:
        cast(nn.Module, loaded).to(target)  # transformers' own `to` is untyped
    check_finite(loaded, place)
    if dtype == "auto" and loaded.dtype == torch.bfloat16 and loaded.device.type == "cpu" and cpu_lacks_bfloat16():
        logger.warning(
            f'{place} is saved in bfloat16, for which this CPU has no instructions; in float32 (dtype="float32", --dtype '
            "float32) it is several times faster and takes twice the memory."
        )
    if compile in (True, "on"):
        compile_decoding(loaded)
    elif compile == "auto" and reason_not_to_compile(loaded) is None:
        loaded.compile_rule = CompileWhenItPays()
    return loaded.eval()


def check_options(
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    quantize: str | None = None,
    attn_implementation: str | None = None,
    compile: str | bool = False,
) -> torch.device:
    """Refuse options of `load_model` that cannot be, before anything is read.

    Returns:
        The device to run on where no `device_map` is given.

    Raises:
        ImportError: bitsandbytes is not installed.
        ValueError: there is no such device or attention code, this torch does not compile, or there are two answers to where the
            model goes.
    """
    if device_map is not None and device != "auto":
        raise ValueError(
            f"device={device!r} and device_map={device_map!r} both say where the model goes; give one of them"
        )
    if quantize is not None and quantize not in get_args(Quantization):
        raise ValueError(f"quantize must be one of {', '.join(get_args(Quantization))}, got {quantize!r}")
    if not isinstance(compile, bool) and compile not in get_args(Compile):
        raise ValueError(f"compile must be one of {', '.join(get_args(Compile))}, got {compile!r}")
    quantization_config(cast(Quantization | None, quantize))
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        choose_device(device_map, "device_map", (*DEVICE_MAPS, "cpu", "cuda", "cuda:1", "mps"))
    if attn_implementation is not None:
        _check_attention(attn_implementation)
    if compile in (True, "on") and not this_torch_compiles():
        raise ValueError(
            f"compile needs torch {FIRST_COMPILING} or newer, because transformers' code does not compile under "
            f"{torch.__version__}; leave it out, or install a newer torch"
        )
    return choose_device(device)


def _check_attention(name: str) -> None:
    """Refuse a name that transformers has no attention code for; with a `/` it is a repo of the Hub, which transformers loads.

    Raises:
        ValueError: with the names that there are.
    """
    known = ["eager", *sorted(ALL_ATTENTION_FUNCTIONS.valid_keys())]
    if "/" not in name and name.removeprefix("paged|") not in known:
        raise ValueError(f"attn_implementation must be one of {', '.join(known)}, or a repo of the Hub; got {name!r}")


def quantization_config(quantize: Quantization | None) -> BitsAndBytesConfig | None:
    """How bitsandbytes keeps an LLM in 4 bits (nf4, double quantization, bfloat16 arithmetic) or 8; None for None.

    `HiComForConditionalGeneration.from_pretrained` keeps SigLIP, the compressor and `lm_head` out of it.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    if quantize is None:
        return None
    if not is_bitsandbytes_available():
        raise ImportError("an LLM in 4 or 8 bits (quantize) needs bitsandbytes: pip install 'hicom_hf[qlora]'")
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def cpu_lacks_bfloat16() -> bool:
    """Whether this CPU computes bfloat16 by emulation, several times slower than float32: x86 without AVX-512 and AMX."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def load_with_report(model_class: type[ModelT], source: str, **kwargs: Any) -> tuple[ModelT, dict[str, Any]]:
    """A model, and what `from_pretrained` reports of missing, unexpected and mismatched weights."""
    loaded: Any = model_class.from_pretrained(source, output_loading_info=True, **kwargs)
    return loaded


def _read_weights(
    place: ModelPlace, config: HiComConfig, options: dict[str, Any], dtype: str | torch.dtype
) -> HiComForConditionalGeneration:
    try:
        _check_files(Path(place.source))
        with Reading(place), quiet_transformers():
            model, report = load_with_report(
                HiComForConditionalGeneration,
                place.source,
                config=config,
                dtype=dtype,
                revision=place.revision,
                **options,
            )
    except (*WRONG_VALUES, OSError, SafetensorError, UnpicklingError) as error:
        # torch's own message advises to load the file again in a way that runs what is in it.
        said = UNSAFE_PICKLE if isinstance(error, UnpicklingError) else message_of(error)
        raise ValueError(f"{place}: the weights cannot be loaded: {said}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
        raise ValueError(
            f"{place}: {len(missing)} weights are missing ({shown}) and would be random; is the folder incomplete?"
        )
    if report["unexpected_keys"]:
        logger.warning(f"{place}: weights that the model has no place for: {sorted(report['unexpected_keys'])}")
    return model


def _add_adapter(model: HiComForConditionalGeneration, adapter: str, merge: bool) -> HiComForConditionalGeneration:
    """The model with a saved adapter in its LLM, and the compressor that was trained beside it.

    Raises:
        ValueError: the adapter is damaged, or was not trained on this base.
    """
    from peft import PeftModel

    try:
        with Reading(adapter), quiet_transformers():
            adapted: Any = PeftModel.from_pretrained(model, adapter)
            return adapted.merge_and_unload() if merge else adapted.get_base_model()
    except (*WRONG_VALUES, OSError, SafetensorError, UnpicklingError) as error:
        raise ValueError(f"{adapter}: the adapter cannot be loaded: {message_of(error)}") from error


def check_finite(model: nn.Module, source: object) -> None:
    """Refuse weights that hold NaN or infinity, from which every result is NaN.

    Raises:
        ValueError: with their names.
    """
    broken = [name for name, weight in model.named_parameters() if not is_finite(weight.detach())]
    if broken:
        names = ", ".join(broken[:MAX_NAMES]) + (", ..." if len(broken) > MAX_NAMES else "")
        raise ValueError(
            f"{source} holds weights that are NaN or infinite, in {len(broken)} tensors: {names}. The folder is damaged, or the "
            "run that wrote it had failed"
        )


def is_finite(weight: torch.Tensor) -> bool:
    """Without a copy of the weight; quantized weights, and those that are still on disk, are not checked."""
    if not weight.is_floating_point() or weight.numel() == 0 or weight.device.type == "meta":
        return True
    return all(map(torch.isfinite, weight.aminmax()))


def _check_files(folder: Path) -> None:
    """Refuse a folder whose index of weight files leads out of it, whose weights were not fetched, or whose
    generation_config.json is damaged: transformers would ignore a broken one silently.

    Raises:
        ValueError: names the file.
    """
    for name in WEIGHTS_INDEXES:
        if (index := folder / name).is_file():
            shard_names(index)
    for path in folder.glob("*.safetensors"):
        if path.is_file() and path.stat().st_size < MAX_POINTER_SIZE and path.read_bytes().startswith(LFS_POINTER):
            raise ValueError(f"{path} is a pointer of Git LFS and not the weights; run `git lfs pull` in the folder")
    if (path := folder / "generation_config.json").is_file():
        values = read_json_object(path)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = values.get(name)
            ids = value if isinstance(value, list) else [value]
            if value is not None and not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
                raise ValueError(f"{path}: {name} must be a whole number or a list of them, got {value!r}")


def check_fits(config: HiComConfig, processor: HiComProcessor, source: object) -> None:
    """Refuse a processor that was made for another model.

    Raises:
        ValueError: if they count visual tokens differently or use other placeholders.
    """
    ours, theirs = (
        {"image_token_id": holder.image_token_id, "video_token_id": holder.video_token_id}
        | {f"visual tokens of {frames} frames": holder.num_visual_tokens(frames) for frames in (1, 5, 32)}
        for holder in (config, processor)
    )
    differences = [
        f"{name}: model {ours[name]}, processor {theirs[name]}" for name in ours if ours[name] != theirs[name]
    ]
    if differences:
        raise ValueError(f"{source}: the processor was made for another model ({'; '.join(differences)})")


def choose_device(
    device: str = "auto",
    argument: str = "device",
    choices: tuple[str, ...] = ("auto", "cpu", "cuda", "cuda:1", "mps"),
    remedy: str = "use --device cpu",
) -> torch.device:
    """The device to run on.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", or another one that this torch has.
        argument, choices: what an error calls it, and what it names as possible.
        remedy: how the user chooses the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{argument} must be {', '.join(choices[:-1])} or {choices[-1]}, got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here; {remedy}, or "
            "install a CUDA build of torch and check nvidia-smi"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs")
    if chosen.type == "meta":
        raise ValueError(
            "device 'meta' holds no values, so nothing can be computed on it; use cpu, cuda, cuda:1 or mps"
        )
    if chosen.type == "mps" and not torch.mps.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch {torch.__version__} finds no Apple GPU here")
    if chosen.type not in ("cpu", "cuda", "mps"):
        try:
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError, ImportError, AttributeError) as error:  # each type of device has its own
            raise ValueError(
                f"device {device!r} was asked for, but torch {torch.__version__} has none of this type here; use "
                f"{', '.join(choices[:-1])} or {choices[-1]}"
            ) from error
    return chosen


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings back while what they are about is checked here, by name; errors and progress stay.

    It warns, for example, about the token ids of SigLIP's default config whenever a SigLIP config is written or compared.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _has_file(source: str, name: str, revision: str | None) -> bool:
    if Path(source).is_dir():
        return (Path(source) / name).is_file()
    return cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False) is not None
