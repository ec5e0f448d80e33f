"""Contrastive pre-training of SigLIP's two towers on the shapes world: patches and phrases into one space.

The loss is SigLIP's sigmoid loss on pairs of a patch and a phrase: does the object in the patch fit the phrase? The logit is the
scaled dot product that the local branch computes with these very features (paper, equation 1), so the scale fits from the start.
SigLIP learns the same from millions of pictures; here labels per patch make it a matter of minutes.

A question chooses frames of a long video by their best two neighbouring patches. The same loss on these (`frame_loss`) is high
where a frame would be chosen by mistake. Frames are shifted by some pixels, so that objects lie on the grid of patches in every
way.

Letters: n frames, N = H x W patches of a frame, O objects, P phrases, D width, S image side in pixels.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import SiglipConfig, SiglipModel

from hicom_hf.modeling.frame_scores_hicom import best_pairs
from hicom_hf.modeling.vision_hicom import HiComInstructionEncoder, HiComVisionTower
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.shapes import Name, box_cover
from hicom_hf.shapes.dice import Dice

from .optimizing import TrainingLog, make_optimizers, rate_at, take_step
from .phrases import Phrase, draw_name, draw_phrase
from .seen_scenes import GRID, VALUES, SeenScene, as_pixels, video_processor
from .sizes import IMAGE_SIZE, INSTRUCTION, INSTRUCTION_LENGTH, PATCH_SIZE, VISION
from .word_tokenizers import instruction_tokenizer

PHRASE_STREAM = 1
SURE_COVER = 0.3  # fraction of a patch from which an object in it counts; smaller ones are not scored
FIRST_BIAS = -6.0  # most pairs do not match
FEATURE_SCALE = 0.2  # of the saved features: their norm falls from about 38 to 8, see `scale_features`
FEATURES_WEIGHT = 0.3  # of the same loss on the features, so that objects are complete one layer earlier
FRAMES_WEIGHT = 1.0  # of the loss on whole frames
MAX_SHIFT = PATCH_SIZE // 2  # pixels by which a frame is shifted along each axis, either way
PALE = 0.5  # fraction of frames that lose some of their colour, so that shapes are learnt apart from it
LEAST_COLOUR = 0.5  # of a frame's colour; with less of it, texts that name a colour are not scored
CONTRAST, BRIGHTNESS = (0.8, 1.2), (-20.0, 20.0)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue; ITU-R BT.601


@dataclass(frozen=True)
class TowerTraining:
    """How long and how fast.

    Args:
        steps: of the optimisers.
        videos, frames: per step, and of each of them.
        phrases: per video and step.
        rate: of both optimisers.
    """

    steps: int = 10000
    videos: int = 12
    frames: int = 2
    phrases: int = 8
    rate: float = 4e-3


class Towers(nn.Module):
    """Both towers, and what only the loss needs."""

    def __init__(self):
        super().__init__()
        self.config = SiglipConfig(vision_config=VISION, text_config=INSTRUCTION)
        self.vision = HiComVisionTower._from_config(self.config.vision_config, attn_implementation="eager")
        self.text = HiComInstructionEncoder._from_config(self.config.text_config, attn_implementation="eager")
        self.bias = nn.Parameter(torch.tensor([FIRST_BIAS, FIRST_BIAS]))
        self.early = nn.Linear(VISION["hidden_size"], VISION["hidden_size"])  # features into the space of the text
        with torch.no_grad():
            self.vision.embeddings.position_embedding.weight.copy_(position_table(GRID, VISION["hidden_size"]))

    def forward(self, pixels: torch.Tensor, instruction_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n * N, P) of aligned features, and of features, with all phrases."""
        features, aligned = self.vision(pixels)
        pooled = self.text(instruction_ids)[0] * pooled_scale()
        return (
            aligned.flatten(0, 2) @ pooled.T + self.bias[0],
            self.early(features).flatten(0, 2) @ pooled.T + self.bias[1],
        )


def pooled_scale() -> float:
    """1 / sqrt(D), as in the local branch."""
    return VISION["hidden_size"] ** -0.5


def position_table(grid: tuple[int, int], width: int, size: float = 0.5) -> torch.Tensor:
    """Sines and cosines of row and column, (H * W, D): neighbours begin alike, so that patches of one object find each other."""
    rows, columns = (torch.arange(count, dtype=torch.float32) for count in grid)
    waves = torch.exp(torch.linspace(math.log(2.0), math.log(0.1), width // 4))  # radians per patch
    tables = [
        torch.cat([(axis[:, None] * waves).sin(), (axis[:, None] * waves).cos()], -1) for axis in (rows, columns)
    ]
    row, column = tables[0][:, None].expand(*grid, -1), tables[1][None].expand(*grid, -1)
    return torch.cat([row, column], -1).flatten(0, 1) * size


@dataclass
class TowerBatch:
    """Frames and phrases, with the labels of all their pairs.

    Attributes:
        frames: uint8 (n, 3, S, S), varied in colour, contrast and brightness.
        phrases: P of them.
        labels: (n * N, P) float: 1 fits, 0 does not.
        judged: likewise, whether the pair counts.
        frame_labels, frame_judged: (n, P) float, of phrases and whole frames.
    """

    frames: torch.Tensor
    phrases: list[Phrase]
    labels: torch.Tensor
    judged: torch.Tensor
    frame_labels: torch.Tensor
    frame_judged: torch.Tensor


def draw_batch(scenes: list[SeenScene], training: TowerTraining, dice: Dice) -> TowerBatch:
    """Frames of some scenes, and phrases about what is seen in them."""
    frames, pale, phrases, covers, attributes = [], [], [], [], []
    for _ in range(training.videos):
        seen = dice.choose(scenes)
        times = dice.shuffled(range(len(seen.frames)))[: training.frames]
        shifts = [
            (dice.below(2 * MAX_SHIFT + 1) - MAX_SHIFT, dice.below(2 * MAX_SHIFT + 1) - MAX_SHIFT) for _ in times
        ]
        cover = shifted_cover(seen.boxes[:, times], shifts)  # (O, n, N)
        visible = torch.nonzero(cover.amax((1, 2)) >= SURE_COVER)[:, 0].tolist()
        for _ in range(training.phrases):
            chosen = [seen.scene.objects[dice.choose(visible)].attributes for _ in range(2)]
            phrases.append(draw_phrase([draw_name(values, dice) for values in chosen], dice))
        for time, shift in zip(times, shifts, strict=True):
            frame = shifted(seen.frames[time], shift)
            colour = dice.uniform(0.0, 1.0) if dice.happens(PALE) else 1.0
            frames.append(varied(frame, colour, dice.uniform(*CONTRAST), dice.uniform(*BRIGHTNESS)))
            pale.append(colour < LEAST_COLOUR)
        covers += list(cover.movedim(1, 0))  # (O, N) per frame
        attributes += [seen.attributes] * len(times)
    labels, judged, frame_judged = [], [], []
    colourless = torch.tensor([not any(name.colour for name in phrase.names) for phrase in phrases])
    for cover, ids, is_pale in zip(covers, attributes, pale, strict=True):
        fits = fitting([phrase.names for phrase in phrases], ids).float()  # (O, P)
        sure = (cover >= SURE_COVER).float().T @ fits > 0  # (N, P)
        touched = (cover > 0).float().T @ fits > 0
        counts = colourless | (not is_pale)
        labels.append(sure.float())
        judged.append(((sure | ~touched) & counts).float())
        frame_judged.append(((sure.any(0) | ~touched.any(0)) & counts).float())
    return TowerBatch(
        torch.stack(frames),
        phrases,
        torch.cat(labels),
        torch.cat(judged),
        torch.stack(labels).amax(1),
        torch.stack(frame_judged),
    )


def shifted(frame: torch.Tensor, shift: tuple[int, int]) -> torch.Tensor:
    """A frame (3, S, S) moved right and down by pixels, or left and up; its edge is repeated where nothing is left."""
    columns, rows = ((torch.arange(frame.shape[-1]) - pixels).clamp(0, frame.shape[-1] - 1) for pixels in shift)
    return frame[:, rows][:, :, columns]


def shifted_cover(boxes: np.ndarray, shifts: list[tuple[int, int]]) -> torch.Tensor:
    """How much of each patch the objects' boxes (O, n, 4) cover once the frames are shifted, float32 (O, n, N)."""
    moved = boxes + np.tile(np.array(shifts), 2) / IMAGE_SIZE
    return torch.from_numpy(box_cover(moved, GRID).astype(np.float32)).flatten(2)


def varied(frame: torch.Tensor, colour: float, contrast: float, brightness: float) -> torch.Tensor:
    """A frame (3, S, S) uint8 with a fraction of its colour, times a contrast, plus a brightness in 255ths.

    Hues stay as they are: another hue would show what training is not to show.
    """
    pixels = frame.float()
    grey = torch.einsum("chw,c->hw", pixels, torch.tensor(LUMINANCE))
    pixels = grey + colour * (pixels - grey)
    mean = pixels.mean()
    return (mean + contrast * (pixels - mean) + brightness).round().clamp(0, 255).to(torch.uint8)


def fitting(names: list[tuple[Name, ...]], attributes: torch.Tensor) -> torch.Tensor:
    """Which objects (O, 3) fit which texts: bool (O, P)."""
    columns = []
    for group in names:
        fits = torch.zeros(len(attributes), dtype=torch.bool)
        for name in group:
            one = torch.ones(len(attributes), dtype=torch.bool)
            for place, value in enumerate(name):
                if value is not None:
                    one &= attributes[:, place] == VALUES[place].index(value)
            fits |= one
        columns.append(fits)
    return torch.stack(columns, -1)


def pair_loss(logits: torch.Tensor, batch: TowerBatch) -> torch.Tensor:
    """SigLIP's sigmoid loss over all judged pairs of a patch and a phrase."""
    return _judged_loss(logits.float(), batch.labels, batch.judged)


def frame_loss(logits: torch.Tensor, batch: TowerBatch) -> torch.Tensor:
    """The same on frames: the logit is that of the best two neighbouring patches, by which a question chooses frames."""
    pairs = best_pairs(logits.float().unflatten(0, (-1, *GRID)).movedim(-1, 1))  # (n, P)
    return _judged_loss(pairs, batch.frame_labels, batch.frame_judged)


def _judged_loss(logits: torch.Tensor, labels: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
    """Per pair that fits."""
    losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * judged).sum() / (labels * judged).sum().clamp(min=1)


def train_towers(scenes: list[SeenScene], training: TowerTraining, seed: int, log: TrainingLog) -> Towers:
    """Pre-train both towers.

    Args:
        scenes: with frames.
        training: how long.
        seed: of weights and batches.
        log: takes the losses.
    """
    torch.manual_seed(seed)
    towers, processor, tokenizer = Towers(), video_processor(), instruction_tokenizer(INSTRUCTION_LENGTH)
    optimizers = make_optimizers(towers, training.rate)
    dice = Dice(seed, PHRASE_STREAM)
    for step in log.steps(training.steps):
        batch = draw_batch(scenes, training, dice)
        loss, parts = _losses(towers, batch, processor, tokenizer)
        rate_at(optimizers, training.rate, step, training.steps)
        take_step(towers, optimizers, loss)
        log.add(step, parts)
    return towers.eval()


def _losses(towers: Towers, batch: TowerBatch, processor: HiComVideoProcessor, tokenizer):
    texts = [phrase.text for phrase in batch.phrases]
    ids = torch.tensor(tokenizer(texts, padding="max_length", truncation=True)["input_ids"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, early = towers(as_pixels(batch.frames, processor), ids)
    aligned_loss, features_loss = pair_loss(logits, batch), pair_loss(early, batch)
    frames_loss = frame_loss(logits, batch)
    told, labels = (logits > 0) & (batch.judged > 0), batch.labels * batch.judged
    hits = (told & (labels > 0)).sum()
    parts = {
        "loss": aligned_loss.item(),
        "features_loss": features_loss.item(),
        "frames_loss": frames_loss.item(),
        "recall": (hits / labels.sum()).item(),
        "precision": (hits / told.sum().clamp(min=1)).item(),
    }
    return aligned_loss + FEATURES_WEIGHT * features_loss + FRAMES_WEIGHT * frames_loss, parts


@torch.no_grad()
def scale_features(tower: HiComVisionTower, scale: float) -> None:
    """Multiply the features by a number, and leave the aligned features as they are (but for the layer norms' epsilon).

    Unconditional local attention compares features with their own mean (paper, equation 1). With large features it takes one
    patch out of each group, mostly background, and the alignment stage has nothing to align. Everything that writes to the
    residual stream is scaled, everything that reads it is behind a layer norm.
    """
    writing = [tower.embeddings.patch_embedding, tower.embeddings.position_embedding]
    for layer in tower.encoder.layers:
        writing += [layer.self_attn.out_proj, layer.mlp.fc2]
    for module in writing:
        for parameter in module.parameters():
            parameter.mul_(scale)


def save_siglip(towers: Towers, folder: Path) -> None:
    """Write the towers as a SigLIP checkpoint that `hicom_hf.assembly.from_parts` takes like any other.

    The head's attention pooling, which HICom does not use, has its first weights; nothing was trained for it.
    """
    scale_features(towers.vision, FEATURE_SCALE)
    model = SiglipModel(towers.config)
    model.vision_model.load_state_dict(towers.vision.state_dict())
    model.text_model.load_state_dict(towers.text.state_dict())
    model.save_pretrained(folder)
    instruction_tokenizer(INSTRUCTION_LENGTH).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(video_processor().to_json_string())
