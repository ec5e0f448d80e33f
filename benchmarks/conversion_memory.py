"""Memory of converting a checkpoint with the names and shapes of the published 7B: the peak above the level after imports.

In: the projector's official names at real size (tables/projector_keys_real_size.json of a folder of reference numbers). A
synthetic checkpoint of random values is written to a temporary folder, converted in a separate process, and deleted.
Out: a table with the peak in relation to its bound, 1.5 times the larger of the largest source file and --max-shard-size.

    python benchmarks/conversion_memory.py GOLDEN_DIR [--layers 2] [--format safetensors bin] [--dtype bf16]

Exit code 1 if the bound is exceeded. Linux only (it reads /proc). Needs twice the checkpoint's size on disk.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

import torch
from transformers import SiglipConfig

from hicom_hf.assembly.random_model import tiny_instruction_tokenizer, tiny_tokenizer
from hicom_hf.conversion.shard_writing import write_shards
from hicom_hf.modeling.configuration_hicom import QWEN2_5_7B, SIGLIP_SO400M_TEXT, SIGLIP_SO400M_VISION, HiComConfig
from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration

BOUND = 1.5
GIB = 2**30
OFFICIAL_PREFIXES = (
    (r"model\.language_model\.", "model."),
    (r"model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"model\.instruction_encoder\.", "model.vision_tower.guide_encoder.text_model."),
)
# The process that converts; it prints its peak above the level after imports, in bytes.
CHILD = """
import sys
from hicom_hf.conversion.converting import convert_official_checkpoint
import transformers.models.qwen2.modeling_qwen2, transformers.models.siglip.modeling_siglip
import hicom_hf.assembly.from_parts

def memory(key):
    return int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1]) * 1024

before = memory("VmRSS:")
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
source, destination, tower, size, dtype = sys.argv[1:]
convert_official_checkpoint(source, destination, vision_tower=tower, max_shard_size=size, dtype=dtype or None)
print(memory("VmHWM:") - before)
"""


def official_shapes(layers: int, projector: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint, with `layers` of its 28 LLM layers."""
    config = HiComConfig(text_config={"model_type": "qwen2", **QWEN2_5_7B, "num_hidden_layers": layers})
    with torch.device("meta"):
        model = HiComForConditionalGeneration(config)
    shapes = {}
    for name, tensor in model.state_dict().items():
        for pattern, official in OFFICIAL_PREFIXES:
            name = re.sub(f"^{pattern}", official, name)
        if not name.startswith("model.compressor."):
            shapes[name] = tuple(tensor.shape)
    return shapes | {f"model.mm_projector.{name}": tuple(shape) for name, shape in projector.items()}


def write_checkpoint(folder: Path, shapes: dict, entry: dict, layers: int, size: str, file_format: str) -> None:
    """A synthetic official checkpoint with its tokenizer, and the tower's files in `siglip/`."""
    block = torch.randn(2**24, dtype=torch.bfloat16)

    def values(name):
        left = prod(shapes[name])
        while left:
            yield block[: min(left, len(block))]
            left -= min(left, len(block))

    write_shards(folder, shapes, torch.bfloat16, size, values, progress=lambda line: None)
    if file_format == "bin":
        _as_bin(folder)
    official = {**QWEN2_5_7B, "num_hidden_layers": layers, "model_type": "hicom_qwen2", "rope_theta": 1000000.0}
    del official["rope_parameters"]
    official |= {
        "mm_projector_type": entry["mm_projector_type"],
        "use_guide": entry["use_guide"],
        "mm_hidden_size": 1152,
    }
    official |= {
        "image_aspect_ratio": "pad",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "no_token",
    }
    official |= {"num_frames": 32, "mm_vision_tower": "siglip"}
    (folder / "config.json").write_text(json.dumps(official))
    tiny_tokenizer().save_pretrained(folder)
    SiglipConfig(text_config=SIGLIP_SO400M_TEXT, vision_config=SIGLIP_SO400M_VISION).save_pretrained(folder / "siglip")
    tiny_instruction_tokenizer().save_pretrained(folder / "siglip")


def _as_bin(folder: Path) -> None:
    """The same shards as torch.save writes them."""
    from safetensors.torch import load_file

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in sorted(set(index["weight_map"].values())):
        torch.save(
            load_file(folder / file), folder / file.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        )
        (folder / file).unlink()
    (folder / "model.safetensors.index.json").unlink()
    weight_map = {
        name: file.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        for name, file in index["weight_map"].items()
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def measure(args: argparse.Namespace, entry: dict, file_format: str) -> bool:
    """One row of the table; whether the bound holds."""
    with tempfile.TemporaryDirectory(dir=args.work_dir) as temporary:
        source, destination = Path(temporary, "source"), Path(temporary, "converted")
        source.mkdir()
        shapes = official_shapes(args.layers, entry["state_dict"])
        write_checkpoint(source, shapes, entry, args.layers, args.source_shard_size, file_format)
        files = [file for file in source.iterdir() if file.suffix in (".safetensors", ".bin")]
        total, largest = sum(f.stat().st_size for f in files), max(f.stat().st_size for f in files)
        limit = BOUND * max(largest, _bytes(args.max_shard_size))
        arguments = [source, destination, source / "siglip", args.max_shard_size, args.dtype or ""]
        command = [sys.executable, "-c", CHILD, *map(str, arguments)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    print(
        f"{file_format:12} {total / GIB:8.2f} {len(files):6} {largest / GIB:14.2f} {peak / GIB:10.2f} {limit / GIB:8.2f} "
        f"{peak / limit:12.2f}",
        flush=True,
    )
    return peak <= limit


def _bytes(size: str) -> int:
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    return int(float(size[:-2]) * units[size[-2:].upper()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", metavar="GOLDEN_DIR", help="folder of reference numbers")
    parser.add_argument(
        "--layers", type=int, default=2, help="layers of the LLM; 28 is the whole 7B (default 2: 5 GB)"
    )
    parser.add_argument("--format", nargs="+", choices=("safetensors", "bin"), default=["safetensors", "bin"])
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="to convert to (default: as stored, bf16)")
    parser.add_argument("--source-shard-size", default="1GB", help="of the synthetic checkpoint (default 1GB)")
    parser.add_argument("--max-shard-size", default="1GB", help="of the conversion (default 1GB)")
    parser.add_argument("--work-dir", help="where the temporary folder lies")
    args = parser.parse_args()
    table = json.loads(Path(args.golden, "tables", "projector_keys_real_size.json").read_text())
    entry = table["entries"][-1]
    print("format       size GiB  files  largest file  peak GiB    bound  peak / bound")
    held = [measure(args, entry, file_format) for file_format in args.format]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
