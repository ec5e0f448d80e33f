"""Official-format checkpoints for the tests: those of tests/golden, and variations on them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipConfig, SiglipModel

from hicom_hf import HiComForConditionalGeneration, HiComProcessor
from hicom_hf.conversion import Conversion, convert_official_checkpoint

GOLDEN = Path(__file__).parent / "golden"
DIRECT, COARSE = (GOLDEN / "e2e" / name for name in ("hicom_release", "hicom_guidecoarse"))
TOWER = DIRECT / "siglip_tower"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def checkpoint(folder: Path, source: Path = DIRECT, tensors=None, **config) -> Path:
    """A copy of a golden checkpoint with other options or tensors; an option `None` is written as null."""
    shutil.copytree(source / "checkpoint", folder, copy_function=shutil.copyfile)
    write_config(folder, source, **config)
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_config(folder: Path, source: Path = DIRECT, **config) -> None:
    official = json.loads((source / "checkpoint" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**official, **config}))


def weights(source: Path = DIRECT) -> dict[str, torch.Tensor]:
    return load_file(source / "checkpoint" / "model.safetensors")


def base_llm(folder: Path, tie: bool = False) -> tuple[Path, dict[str, torch.Tensor]]:
    """A base Qwen2 of the golden checkpoint's size with other weights, and its tensors."""
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
    official = json.loads((DIRECT / "checkpoint" / "config.json").read_text())
    config = Qwen2Config(**{key: official[key] for key in (*keys, "vocab_size")}, tie_word_embeddings=tie)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        Qwen2ForCausalLM(config).half().save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(DIRECT / "checkpoint" / name, folder / name)
    return folder, load_file(folder / "model.safetensors")


def whole_siglip(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The golden checkpoint's SigLIP with weights of its own, as published ones are; and its tensors."""
    shutil.copytree(DIRECT / "siglip_tower", folder, copy_function=shutil.copyfile)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        SiglipModel(SiglipConfig.from_pretrained(folder)).half().save_pretrained(folder)
    shutil.copyfile(DIRECT / "siglip_tower" / "config.json", folder / "config.json")
    return folder, load_file(folder / "model.safetensors")


def projector_run(folder: Path, **config) -> tuple[Path, dict[str, torch.Tensor]]:
    """What stage 1 leaves, or with other options stage 2: config.json and mm_projector.bin."""
    folder.mkdir()
    stage_1 = {
        "mm_projector_type": "local43_global32",
        "use_guide": None,
        "num_frames": 1,
        "image_aspect_ratio": "square",
    }
    write_config(folder, **{**stage_1, **config})
    projector = {name: tensor for name, tensor in weights().items() if ".mm_projector." in name}
    torch.save(projector, folder / "mm_projector.bin")
    return folder, projector


@dataclass
class Converted:
    """A converted folder and the report on it."""

    folder: Path
    conversion: Conversion

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            name: tensor
            for file in self.conversion.weight_files
            for name, tensor in load_file(self.folder / file).items()
        }


def convert(source: Path | str, folder: Path, **options) -> Converted:
    options.setdefault("vision_tower", TOWER)
    return Converted(folder, convert_official_checkpoint(source, folder, **options))


def load(folder: Path) -> tuple[HiComForConditionalGeneration, HiComProcessor]:
    return HiComForConditionalGeneration.from_pretrained(folder).eval(), HiComProcessor.from_pretrained(folder)


def nothing_is_left(tmp_path: Path, *expected: str) -> bool:
    """Whether a folder holds what is expected, and no temporary folder besides."""
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
