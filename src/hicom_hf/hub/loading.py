"""Load a model folder or repo with every mistake named: what is missing, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file, logging

from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.processing_hicom import HiComProcessor
from .reading import Reading, shard_names

logger = logging.get_logger(__name__)

# What transformers, tokenizers and our own checks raise over values of a damaged or hand-edited JSON file.
WRONG_VALUES = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
    TemplateError,
)
NO_ANSWER = HfHubHTTPError.__bases__[0]  # what huggingface_hub's HTTP library raises where there is no network
WEIGHTS_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MAX_NAMES = 3  # of weights, in a message
HUB_SECONDS = 10.0  # to wait for the Hub to say whether a repo exists
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_config(source: str | Path) -> HiComConfig:
    """The config of a HICom model, without its weights.

    Args:
        source: folder or repo id.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no config.json.
        OSError: the repo cannot be reached.
        ValueError: it is another kind of model, or its config is not valid.
    """
    check_exists(source)
    with Reading(source):
        return _read_config(source)


def _read_config(source: str | Path) -> HiComConfig:
    try:
        values, _ = PreTrainedConfig.get_config_dict(str(source))
    except OSError as error:
        raise unreadable(source, error) from error
    except (TypeError, AttributeError, RecursionError) as error:  # JSON that is no object, or nested too deeply
        raise ValueError(f"{source}: config.json is not valid: {error}") from error
    _check_attention(values, source)
    kind = values.get("model_type")
    if kind != HiComConfig.model_type:
        raise ValueError(
            f"{source}: this is a model of type {kind!r}, not a HICom model in this package's format; `hicom convert` takes "
            "the authors' checkpoints, `hicom init` makes a new model from a SigLIP and an LLM"
        )
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(str(source))
    except WRONG_VALUES as error:
        raise ValueError(f"{source}: config.json is not valid: {_told(error)}") from error


def _check_attention(values: dict, source: str | Path) -> None:
    """Refuse a config that makes transformers load attention code from the Hub; the user may, by attn_implementation.

    Raises:
        ValueError: names the field.
    """
    for name, value in values.items():
        if isinstance(value, dict):
            _check_attention(value, source)
        chosen = value if isinstance(value, str) and "attn_implementation" in name else ""
        if "/" in chosen or ":" in chosen:
            raise ValueError(
                f"{source}: config.json asks for attention code from elsewhere ({name}={chosen!r}); remove this field, and "
                "choose the attention when loading, if you trust that code"
            )


def _told(error: Exception) -> str:
    """The message of an error, with its type where the message alone says nothing, such as that of a KeyError."""
    return str(error) if isinstance(error, (ValueError, TypeError, OSError)) else f"{type(error).__name__}: {error}"


def load_processor(source: str | Path) -> HiComProcessor:
    """The processor of a HICom model.

    Raises:
        FileNotFoundError: there is none.
        OSError: the repo cannot be reached.
        ValueError: its tokenizers do not fit.
    """
    check_exists(source)
    if not _has_file(source, "processor_config.json"):
        raise FileNotFoundError(
            f"{source}: there is no processor (processor_config.json is missing); save it beside the weights with "
            "processor.save_pretrained"
        )
    try:
        with Reading(source), quiet_transformers():
            return HiComProcessor.from_pretrained(str(source))
    except (*WRONG_VALUES, OSError) as error:
        raise ValueError(f"{source}: the processor cannot be loaded: {_told(error)}") from error


def load_model(
    source: str | Path,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
) -> HiComForConditionalGeneration:
    """A HICom model with all its weights, in evaluation mode.

    Args:
        source: folder or repo id.
        device: see `choose_device`.
        dtype: one of `DTYPES`; "auto" keeps the saved one.
        attn_implementation: as in transformers; None lets it choose.

    Raises:
        FileNotFoundError: there is no such folder, or no weights in it.
        OSError: the repo cannot be reached.
        ValueError: the config is not valid, or weights are missing or do not fit it.
    """
    target = choose_device(device)
    config = load_config(source)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        _check_index(source)
        with Reading(source), quiet_transformers():
            model, report = HiComForConditionalGeneration.from_pretrained(
                str(source), config=config, dtype=dtype, output_loading_info=True, **options
            )
    except (*WRONG_VALUES, OSError, SafetensorError, UnpicklingError) as error:
        raise ValueError(f"{source}: the weights cannot be loaded: {_told(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{source}: {len(missing)} weights are missing ({shown}) and would be random; is the folder incomplete?"
        )
    if report["unexpected_keys"]:
        logger.warning(f"{source}: weights that the model has no place for: {sorted(report['unexpected_keys'])}")
    model = model.to(target).eval()
    check_finite(model, source)
    return model


def check_finite(model: nn.Module, source: str | Path) -> None:
    """Refuse weights that hold NaN or infinity, from which every result is NaN.

    Raises:
        ValueError: with their names.
    """
    broken = [name for name, weight in model.named_parameters() if not _is_finite(weight.detach())]
    if broken:
        names = ", ".join(broken[:MAX_NAMES]) + (", ..." if len(broken) > MAX_NAMES else "")
        raise ValueError(
            f"{source} holds weights that are NaN or infinite, in {len(broken)} tensors: {names}. The folder is damaged, or the "
            "run that wrote it had failed"
        )


def _is_finite(weight: torch.Tensor) -> bool:
    """Without a copy of the weight; quantized weights, and those that are still on disk, are not looked at."""
    if not weight.is_floating_point() or weight.numel() == 0 or weight.device.type == "meta":
        return True
    return all(map(torch.isfinite, weight.aminmax()))


def _check_index(source: str | Path) -> None:
    """Refuse a folder whose index of weight files leads out of it."""
    for name in WEIGHTS_INDEXES:
        if (index := Path(source) / name).is_file():
            shard_names(index)


def check_fits(config: HiComConfig, processor: HiComProcessor, source: str | Path) -> None:
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


def choose_device(device: str = "auto") -> torch.device:
    """The device to run on.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda, cuda:1 or mps, got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here; use --device cpu, or "
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


def check_exists(source: str | Path) -> None:
    """Tell a folder that is not there from a repo id, which transformers would look up.

    Raises:
        FileNotFoundError: `source` is the path of nothing, or a folder without config.json.
        NotADirectoryError: it is a file.
    """
    path = Path(source)
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{source}: this folder holds adapters; `hicom merge {source} DEST` makes a model of them"
            )
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{source}: this folder holds no model (config.json is missing)")
    elif path.exists():
        raise NotADirectoryError(f"{source}: a model is a folder or a repo id, and this is a file")
    elif isinstance(source, Path) or not _can_be_repo_id(source):
        raise FileNotFoundError(f"{source}: there is no such folder{_similar(path)}")
    elif similar := _similar(path):
        raise FileNotFoundError(f"{source}: there is no such folder{similar}")
    else:
        _ask_hub(source)


def _similar(path: Path) -> str:
    """Folders beside a path that is not there whose names are nearly its own, as the end of a message."""
    if not path.name or not path.parent.is_dir() or str(path.parent) == ".":
        return ""
    folders = [child.name for child in path.parent.iterdir() if child.is_dir()]
    near = [str(path.parent / name) for name in get_close_matches(path.name, folders)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _ask_hub(repo: str, revision: str | None = None) -> None:
    """Ask the Hub once whether a repo exists; transformers would ask for minutes where there is no network.

    Raises:
        OSError: there is no such repo or revision, it is not for this user, or there is no answer.
    """
    if HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS)
    except (OSError, ValueError, NO_ANSWER) as error:
        raise unreadable(repo, error) from error


def unreadable(source: str | Path, error: Exception) -> OSError:
    """The error for a folder or repo that transformers could not read: transformers' own often names neither."""
    if Path(source).is_dir():
        return OSError(f"{source}: the model in this folder cannot be read: {error}")
    return OSError(f"{source}: there is no such folder, and no such Hub repo could be read: {error}")


def _can_be_repo_id(source: str) -> bool:
    return source.count("/") <= 1 and not source.startswith((".", "/", "~")) and not source.endswith("/")


def _has_file(source: str | Path, name: str) -> bool:
    if Path(source).is_dir():
        return (Path(source) / name).is_file()
    return cached_file(str(source), name, _raise_exceptions_for_missing_entries=False) is not None
