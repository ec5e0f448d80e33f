"""What a source folder is: a whole checkpoint, a projector of stages 1 and 2, or a LoRA run; and where its tensors lie."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..hub.places import ADAPTER_CONFIG
from ..hub.reading import read_json_object
from .adapter_merging import AdapterMerger, strip_base
from .checkpoint_reading import (
    ADAPTER_FILES,
    NON_LORA_FILE,
    PROJECTOR_FILE,
    StoredTensor,
    TensorReader,
    list_tensors,
    local_folder,
    weight_files,
)
from .names import our_name
from .official_config import check_behaviour, projector_plan
from .projector_string import ProjectorPlan

NATIVE = "hicom"
VISION_PREFIX, TEXT_PREFIX = "model.vision_tower.", "model.instruction_encoder."
TOWERS = {VISION_PREFIX: "vision", TEXT_PREFIX: "text"}


@dataclass
class OfficialSource:
    """An official checkpoint with everything that it refers to, nothing read yet.

    Attributes:
        folder: of the checkpoint.
        kind: "whole", "projector" or "LoRA".
        config: its config.json.
        plan: what its projector is.
        tower: folder of the SigLIP.
        language_model: folder of the base LLM, None for a whole checkpoint.
        tensors: official name -> stored tensor; of several files with the same tensor, the trained one.
        merger: of a LoRA run.
        unused_prefix: of our names of a tower that is nowhere and not used, None if there is none.
        notes: for the user.
    """

    folder: Path
    kind: str
    config: dict
    plan: ProjectorPlan
    tower: Path = Path()
    language_model: Path | None = None
    reader: TensorReader = field(default_factory=TensorReader)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    merger: AdapterMerger | None = None
    unused_prefix: str | None = None
    notes: list[str] = field(default_factory=list)

    def read(self, name: str) -> torch.Tensor:
        """A tensor by its official name, a LoRA run's merged."""
        tensor = self.reader.read(self.tensors[name])
        module = name.removesuffix(".weight")
        if self.merger is not None and module in self.merger.modules:
            return self.merger.merge(module, tensor)
        return tensor


def open_source(
    source: str | Path, vision_tower: str | Path | None, language_model: str | Path | None
) -> OfficialSource:
    """Find out what a source is and list its tensors.

    Args:
        source: folder or repo id.
        vision_tower: folder or repo id of the SigLIP; None for the one that the config names.
        language_model: likewise the base LLM of a projector or LoRA run.

    Raises:
        FileNotFoundError: something is not there, with the argument that names it.
        ValueError: it is something else.
    """
    folder = local_folder(source, "the source")
    config = _official_config(folder)
    if config.get("model_type") == NATIVE:
        raise ValueError(f"{source} is already in the format of hicom_hf: there is nothing to convert")
    if "mm_projector_type" not in config:
        raise ValueError(
            f"{source} is no official HICom checkpoint: its config.json has no mm_projector_type (model_type "
            f"{config.get('model_type')!r})"
        )
    plan, kind = projector_plan(config), _kind(folder)
    check_behaviour(config, plan, towers_inside=kind == "whole")
    opened = OfficialSource(folder, kind, config, plan)
    layers = _own_tensors(opened)
    if opened.kind != "whole":
        named = config.get("_name_or_path") or _adapter_base(folder)
        opened.language_model = _referred(folder, named, language_model, "the base LLM", "--language-model")
        layers.append(_weights_of(opened.language_model, "--language-model"))
    absent = [prefix for prefix in TOWERS if not _holds(layers, prefix)]
    weights = bool(absent) or opened.kind != "whole"
    named = config.get("mm_vision_tower")
    opened.tower = _referred(folder, named, vision_tower, "the SigLIP", "--vision-tower", weights)
    if weights:
        layers.append(_tower_tensors(opened, absent))
    opened.tensors = _stack(layers)
    if opened.merger is not None:
        opened.merger.check(opened.tensors)
    return opened


def _official_config(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no official HICom checkpoint: it has no config.json")
    return read_json_object(path)


def _kind(folder: Path) -> str:
    if (folder / ADAPTER_CONFIG).is_file():
        if not (folder / NON_LORA_FILE).is_file():
            raise FileNotFoundError(f"{folder} has an adapter but no {NON_LORA_FILE}, which holds its projector")
        return "LoRA"
    if weight_files(folder):
        return "whole"
    if (folder / PROJECTOR_FILE).is_file():
        return "projector"
    raise FileNotFoundError(
        f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin (with or without shards), nor "
        f"{PROJECTOR_FILE}, nor an adapter"
    )


def _referred(folder: Path, named: str | None, given, what: str, option: str, weights: bool = True) -> Path:
    """A model that the checkpoint refers to: as given, else as its config names it, from its folder or from here."""
    if given is not None:
        return local_folder(given, option, weights)
    if named is None:
        raise FileNotFoundError(f"{folder}: the config does not name {what}; give it with {option}")
    for candidate in (folder / named, Path(named)):
        if (candidate / "config.json").is_file() and candidate.resolve() != folder.resolve():
            return candidate
    try:
        return local_folder(named, option, weights)
    except OSError as error:
        raise FileNotFoundError(
            f"{folder}: {what} that the config names, {named!r}, is not here; give a folder or repo id with {option}"
        ) from error


def _adapter_base(folder: Path) -> str | None:
    path = folder / ADAPTER_CONFIG
    return read_json_object(path).get("base_model_name_or_path") if path.is_file() else None


def _own_tensors(source: OfficialSource) -> list[dict[str, StoredTensor]]:
    """What was trained, in layers of which the first counts."""
    if source.kind == "whole":
        return [list_tensors(weight_files(source.folder))]
    if source.kind == "projector":
        return [_stripped(list_tensors([source.folder / PROJECTOR_FILE]))]
    files = [source.folder / name for name in ADAPTER_FILES if (source.folder / name).is_file()][:1]
    if not files:
        raise FileNotFoundError(f"{source.folder} has an {ADAPTER_CONFIG} but none of {', '.join(ADAPTER_FILES)}")
    source.merger = AdapterMerger(source.folder, list_tensors(files), source.reader)
    return [_stripped(list_tensors([source.folder / NON_LORA_FILE])), source.merger.whole]


def _weights_of(folder: Path, option: str) -> dict[str, StoredTensor]:
    files = weight_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder}, given as {option}, holds no weights")
    return list_tensors(files)


def _tower_tensors(source: OfficialSource, absent: list[str]) -> dict[str, StoredTensor]:
    """The SigLIP's own tensors; for a whole checkpoint those of the towers that it does not hold."""
    if absent == [TEXT_PREFIX] and not source.plan.config.uses_instruction and not weight_files(source.tower):
        source.unused_prefix = TEXT_PREFIX
        source.notes.append(
            "The compressor takes no instruction, and neither the checkpoint nor the SigLIP holds a text tower: zeros are "
            "written for it. To train with instructions, convert with a complete SigLIP (--vision-tower)."
        )
        return {}
    if absent:
        siglip = _weights_of(source.tower, "--vision-tower, for want of towers in the checkpoint")
    else:
        siglip = list_tensors(weight_files(source.tower))
    if source.kind != "whole":
        return siglip
    words = " and ".join(TOWERS[prefix] for prefix in absent)
    source.notes.append(f"The checkpoint holds no {words} tower; it is taken from {source.tower.name}.")
    present = tuple(prefix for prefix in TOWERS if prefix not in absent)
    return {name: tensor for name, tensor in siglip.items() if not _starts(name, present)}


def _stack(layers: list[dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """All tensors; of several that become the same one of ours, that of the first layer."""
    tensors: dict[str, StoredTensor] = {}
    taken: set[str] = set()
    for layer in layers:
        ours = {name: _ours(name) for name in layer}
        tensors.update({name: layer[name] for name in layer if ours[name] is None or ours[name] not in taken})
        taken |= {name for name in ours.values() if name is not None}
    return tensors


def _stripped(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Names as in a whole checkpoint: without peft's prefix; a projector's with `model.` in front."""
    names = (strip_base(name) for name in tensors)
    names = (f"model.{name}" if name.startswith("mm_projector.") else name for name in names)
    return dict(zip(names, tensors.values(), strict=True))


def _ours(name: str) -> str | None:
    try:
        return our_name(name)
    except KeyError:
        return None  # reported later


def _starts(name: str, prefixes: tuple[str, ...]) -> bool:
    ours = _ours(name)
    return ours is not None and ours.startswith(prefixes)


def _holds(layers: list[dict], prefix: str) -> bool:
    return any(_starts(name, (prefix,)) for layer in layers for name in layer)
