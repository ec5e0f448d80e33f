"""The official program's tables: grouping, positions, frame sampling, instruction extraction, projector names; and frames."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from hicom_hf.conversion.names import PROJECTOR_RULES
from hicom_hf.conversion.official_config import projector_plan
from hicom_hf.conversion.projector_string import UnreleasedOptionError
from hicom_hf.conversion.tensor_matching import match_tensors
from hicom_hf.modeling.compressor_hicom import HiComCompressor
from hicom_hf.modeling.grouping_hicom import group_positions, group_spans
from hicom_hf.modeling.positions_hicom import HiComReleasePositions
from hicom_hf.processors.frame_sampling_hicom import FrameSampling, select_frames
from hicom_hf.processors.instruction_hicom import extract_instruction
from hicom_hf.processors.square_frames_hicom import pad_to_square
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor

from .checks import CaseResult, Comparison, LeftOut, different_entries, largest

GREY_LEVEL = 2 / 255  # one of 256 levels after normalisation to [-1, 1]
FLOAT32_NOISE = 1e-6
FLOAT64_NOISE = 1e-12  # of sines and cosines with angles up to some hundred, computed by another library
UNGROUPED = "the official program cannot group these lengths; ours overlaps neighbours further"
PREFIX = "Question: "  # the official program strips these characters from the left where it means the prefix

Found = tuple[list[Comparison], list[LeftOut]]


def run_table_case(folder: Path, case: dict) -> CaseResult:
    """One table, entry by entry; its kind is in the file."""
    described = json.loads((folder / case["files"][0]).read_text())
    tensors = load_file(folder / case["files"][1]) if len(case["files"]) > 1 else {}
    check = TABLES.get(described["kind"])
    if check is None:
        return CaseResult(
            case["id"], case["kind"], (), (LeftOut("all", f"unknown kind of table {described['kind']!r}"),)
        )
    comparisons, left_out = check(described, tensors)
    return CaseResult(case["id"], case["kind"], tuple(comparisons), tuple(left_out))


def _grouping(table: dict, tensors: dict) -> Found:
    pairs, failing = [], 0
    for entry in table["entries"]:
        if not entry["ok"]:
            failing += 1
            continue
        reference = list(zip(entry["start"], entry["end"], strict=True))
        pairs.append((group_spans(entry["size"], entry["kernel"]), reference))
    return [different_entries("spans of the groups", pairs)], _left_out_rows(failing, UNGROUPED)


def _grouping_3d(table: dict, tensors: dict) -> Found:
    comparisons, failing = [], 0
    for entry in table["entries"]:
        if "error" in entry or not entry.get("ok", True):
            failing += 1
            continue
        _, rows, columns = entry["grid"]
        frame, row, column = group_positions(tuple(entry["grid"]), tuple(entry["kernel"])).unbind(-1)
        members = (frame * rows + row) * columns + column
        comparisons.append(largest(entry["tensor"], members, tensors[entry["tensor"]], tolerance=0.0))
    return comparisons, _left_out_rows(failing, UNGROUPED)


def _positions(table: dict, tensors: dict) -> Found:
    comparisons = []
    for entry in table["entries"]:
        *grid, width = entry["shape"]
        ours = HiComReleasePositions().embedding(tuple(grid), width, dtype=torch.float64)
        comparisons.append(largest(entry["tensor"], ours, tensors[entry["tensor"]], FLOAT64_NOISE))
    if "big" in table:
        *grid, width = table["big"]["shape"]
        frame, row, column = tensors[table["big"]["index_tensor"]].long().unbind(-1)
        ours = HiComReleasePositions().embedding(tuple(grid), width, dtype=torch.float64)[frame, row, column]
        comparisons.append(largest("a large grid", ours, tensors[table["big"]["values_tensor"]], FLOAT64_NOISE))
    return comparisons, []


def _sampled(num_source_frames: int, num_frames: int) -> list[int]:
    sampling = FrameSampling(num_frames=num_frames, short_video="repeat")
    return select_frames(range(num_source_frames), sampling)


def _frame_sampling(table: dict, tensors: dict) -> Found:
    rows = [row for row in table["uniform"] if "error" not in row]
    pairs = [(_sampled(row["duration"], row["num_frames"]), row["indices"]) for row in rows]
    reason = "fps mode: the official program steps over frame numbers, ours uses the frames' real times"
    return [different_entries("uniform indices", pairs)], _left_out_rows(len(table.get("fps", [])), reason)


def _video_indices(table: dict, tensors: dict) -> Found:
    pairs, ranges, fps, capped = [], 0, 0, 0
    for row in table["entries"]:
        if row["start"] is not None or row["end"] is not None:
            ranges += 1
        elif row["num_frames"] is None:
            fps += 1
        elif "error" not in row:
            pairs.append((_sampled(row["n_frames"], row["num_frames"]), row["sampled_indices"]))
            capped += len(row["kept_indices"]) < len(row["sampled_indices"])
    left_out = _left_out_rows(ranges, "ranges in seconds: ours use the frames' real times")
    left_out += _left_out_rows(fps, "one frame per second: ours uses the frames' real times")
    if capped:
        left_out.append(LeftOut(f"kept_indices of {capped} rows", "the cap of 32 frames is a defect: ours keeps all"))
    return [different_entries("sampled_indices before the cap", pairs)], left_out


def _instructions(table: dict, tensors: dict) -> Found:
    pairs, stripped = [], 0
    for row in table["entries"]:
        ours, reference = extract_instruction(row["prompt"], rules="official"), row["guided"]
        if ours != reference and PREFIX in row["prompt"] and ours.lstrip(PREFIX) == reference:
            stripped += 1
        else:
            pairs.append((ours, reference))
    reason = "the lstrip defect: the official program eats leading letters behind 'Question: '"
    return [different_entries("instructions", pairs)], _left_out_rows(stripped, reason)


def _projector_keys(table: dict, tensors: dict) -> Found:
    """Names, shapes and counts at the real widths, without any values."""
    comparisons, left_out = [], []
    for entry in table["entries"]:
        config = {**table["dims"], **entry}
        try:
            plan = projector_plan(config)
        except UnreleasedOptionError as refusal:
            left_out.append(LeftOut(entry["run"], f"refused: {refusal}"))
            continue
        with torch.device("meta"):
            compressor = HiComCompressor(plan.config, config["mm_hidden_size"], config["hidden_size"])
        wanted = {name: tuple(parameter.shape) for name, parameter in compressor.named_parameters()}
        found = {name: tuple(shape) for name, shape in entry["state_dict"].items()}
        try:
            match_tensors(found, wanted, PROJECTOR_RULES)
            misfits = 0
        except ValueError:
            misfits = len(set(found) ^ set(wanted)) or 1
        count = sum(parameter.numel() for parameter in compressor.parameters())
        comparisons.append(Comparison(f"tensors of {entry['run']}", float(misfits), 0.0, " misfits"))
        comparisons.append(Comparison(f"parameters of {entry['run']}", float(abs(count - entry["n_parameters"])), 0.0))
    return comparisons, left_out


def _left_out_rows(count: int, reason: str) -> list[LeftOut]:
    return [LeftOut(f"{count} rows", reason)] if count else []


TABLES = {
    "grouping_1d": _grouping,
    "grouping_3d": _grouping_3d,
    "position_embedding": _positions,
    "frame_sampling": _frame_sampling,
    "process_video_indices": _video_indices,
    "instruction_extraction": _instructions,
    "projector_keys_real_size": _projector_keys,
}


def run_preprocess_case(folder: Path, case: dict) -> CaseResult:
    """Padding, resizing and normalising of single frames and frame lists."""
    described = json.loads((folder / case["files"][0]).read_text())
    tensors = load_file(folder / case["files"][1])
    comparisons: list[Comparison] = []
    left_out: list[LeftOut] = []
    for frame in described["frames"]:
        image = tensors[frame["input"]].numpy()
        for do_pad, suffix in ((True, "pad"), (False, "nopad")):
            if frame.get(f"degenerate_{suffix}"):
                reason = "sides of 1 or 3 pixels, which the official program misreads as channels"
                left_out.append(LeftOut(f"{frame['name']} {suffix}", reason))
                continue
            comparisons += _compare_frame(frame, suffix, image, do_pad, tensors)
    comparisons += _compare_lists(described, tensors, left_out)
    return CaseResult(case["id"], case["kind"], tuple(comparisons), tuple(left_out))


def _processor(side: int, do_pad: bool) -> HiComVideoProcessor:
    return HiComVideoProcessor(size={"height": side, "width": side}, do_pad=do_pad, resample="exact")


def _compare_frame(frame: dict, suffix: str, image: np.ndarray, do_pad: bool, tensors: dict) -> list[Comparison]:
    """One frame at every size that the reference has."""
    comparisons = []
    if do_pad and "squared" in frame:
        squared = torch.from_numpy(pad_to_square(image, 127))
        comparisons.append(largest(f"{frame['name']} squared", squared, tensors[frame["squared"]], tolerance=0.0))
    for key in (key for key in frame if key.startswith(suffix) and key[len(suffix) :].isdigit()):
        side = int(key[len(suffix) :])
        pixels = _processor(side, do_pad).preprocess_images([image])["pixel_values"][0]  # (3, S, S)
        reference = frame[key]
        if isinstance(reference, str):
            comparisons.append(_grey(f"{frame['name']} {key}", pixels, tensors[reference]))
            continue
        for name, crop in reference.get("crops", {}).items():
            top, left, size = crop["y0"], crop["x0"], crop["size"]
            ours = pixels[:, top : top + size, left : left + size]
            comparisons.append(_grey(f"{frame['name']} {key} {name}", ours, tensors[crop["tensor"]]))
        digest = hashlib.sha256(_processor(side, do_pad).square_frame(image).transpose(2, 0, 1).tobytes()).hexdigest()
        mean = abs(pixels.double().sum().item() - reference["sum"]) / pixels.numel()
        same = digest == reference["sha256_uint8_chw"]
        comparisons.append(Comparison(f"{frame['name']} {key} mean", 0.0 if same else mean, GREY_LEVEL))
    return comparisons


def _compare_lists(described: dict, tensors: dict, left_out: list[LeftOut]) -> list[Comparison]:
    comparisons = []
    if "full384" in described:
        full = described["full384"]
        image = next(frame for frame in described["frames"] if frame["name"] == full["of"])
        reference = tensors[full["tensor"]]
        ours = _processor(reference.shape[-1], True).square_frame(tensors[image["input"]].numpy())
        comparisons.append(
            largest("full image, grey levels", torch.from_numpy(ours.copy()).movedim(-1, 0), reference, 1.0)
        )
    if "short_list" in described:
        short = described["short_list"]
        frames = tensors[short["input"]].numpy()
        for key in (key for key in short if key.startswith(("pad", "nopad"))):
            side, do_pad = int(key.lstrip("nopad")), key.startswith("pad")
            ours = _processor(side, do_pad)(frames, do_sample_frames=False)["pixel_values_videos"]
            comparisons.append(_grey(f"short list {key}", ours, tensors[short[key]][: len(frames)]))
        left_out.append(LeftOut("the black frames of a short list", "ours gives the frames that there are"))
    if "long_list" in described:
        left_out.append(LeftOut("a list of more than 32 frames", "the cap of 32 frames is a defect: ours keeps all"))
    return comparisons


def _grey(what: str, ours: torch.Tensor, reference: torch.Tensor) -> Comparison:
    """Within one grey level: Pillow's own rounding may change between its versions."""
    return largest(what, ours, reference, GREY_LEVEL + FLOAT32_NOISE)
