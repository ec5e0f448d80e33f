"""Say what a model folder or repo is. Reads its config and the headers of its weight files, never the weights.

hicom inspect hicom-7b
"""

import argparse
import json
import sys

from .arguments import MODEL_HELP

HELP = "say what a model is, without loading its weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="write one JSON object")


def run(args: argparse.Namespace) -> int:
    from ..hub.inspection import inspect_model

    report = {**inspect_model(args.model), "model": args.model}
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print("\n".join(describe(report)))
    for problem in report["problems"]:
        print(f"hicom: warning: {problem}", file=sys.stderr)
    return 0


def describe(report: dict) -> list[str]:
    """The report as lines for a person."""
    weights = "no weights"
    if report["num_parameters"] is not None:
        dtypes = ", ".join(report["dtypes"])
        weights = f"{_count(report['num_parameters'])} parameters ({dtypes})"
    if report["num_weight_files"]:
        files = report["num_weight_files"]
        weights += f", {_count(report['num_bytes'])}B in {files} file{'s' if files > 1 else ''}"
    untrained = ", ".join(report["untrained_parts"]).replace("_", " ")
    lines = [
        f"{report['model']}: HICom, {report['formulation']} formulation, {weights}",
        f"untrained: {untrained} (random weights: answers mean nothing)" if untrained else "untrained: nothing",
        *_adapter(report["adapter"]),
        "",
        *_parts(report),
        "",
        *_compressor(report["compressor"]),
        "",
        f"{'frames':>8}{'visual tokens':>16}{'uncompressed':>15}{'times fewer':>14}",
    ]
    for row in report["tokens"]:
        lines.append(
            f"{row['num_frames']:>8}{row['num_visual_tokens']:>16,}{row['num_uncompressed_patches']:>15,}"
            f"{row['times_fewer']:>14}"
        )
    if report["processor"] is not None:
        lines += ["", *_processor(report["processor"])]
    return lines


def _adapter(adapter: dict | None) -> list[str]:
    if adapter is None:
        return []
    size = (
        "without weights" if adapter["num_parameters"] is None else f"{_count(adapter['num_parameters'])} parameters"
    )
    return [f"a LoRA adapter, {size}, on {adapter['base']}; what follows is the base"]


def _parts(report: dict) -> list[str]:
    lines = [f"{'part':<22}{'parameters':>12}  what it is"]
    for name, part in report["parts"].items():
        count = "" if part["num_parameters"] is None else _count(part["num_parameters"])
        what = f"{part['type']}, {part['width']} wide"
        if "num_layers" in part:
            what += f", {part['num_layers']} layers"
        if "grid" in part:
            rows, columns = part["grid"]
            what += f", frames of {part['frame_size']} pixels in {rows} x {columns} patches"
        lines.append(f"{name.replace('_', ' '):<22}{count:>12}  {what}")
    return lines


def _compressor(compressor: dict) -> list[str]:
    frames, rows, columns = compressor["ratio"]
    local, num_global = compressor["local_branch"], compressor["num_global_tokens"]
    kind = (local or "").replace("_", " ")
    lines = [
        f"local branch: {kind}, {frames} x {rows} x {columns} patches (frames x rows x columns) to one token, "
        f"injection {compressor['local_injection']}"
        if local
        else "local branch: none",
        f"global branch: {num_global} tokens, injection {compressor['global_injection']}"
        if num_global
        else "global branch: none",
    ]
    adapters = [name.replace("_", " ") for name in ("key_adapter", "value_adapter") if compressor[name]]
    if adapters:
        lines.append(f"adapters: {', '.join(adapters)}")
    if compressor["bypass_injection"]:
        lines.append("the injection is there and bypassed, as after the alignment stage")
    return lines


def _processor(processor: dict) -> list[str]:
    sampling = (
        f"{processor['num_frames']} frames" if processor["fps"] is None else f"{processor['fps']} frames per second"
    )
    return [
        f"frames: {sampling} unless asked otherwise, {' x '.join(map(str, processor['frame_size']))} pixels",
        f"placeholders: {processor['video_token']} ({processor['video_token_id']}), "
        f"{processor['image_token']} ({processor['image_token_id']}); end {processor['end_token']}, "
        f"padding {processor['padding_token']}; {processor['instruction_length']} instruction tokens",
        f"system prompt: {json.dumps(processor['system_prompt'], ensure_ascii=False)}",
        f"prompt: {json.dumps(processor['prompt'], ensure_ascii=False)}",
    ]


def _count(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} "
