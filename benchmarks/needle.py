"""A scene among thousands of others: does the question find it, at the tokens of 8 frames?

In: hicom-tiny and the built-in world. A needle is a scene of normal clutter; the haystack are scenes in which nothing may be
called what the question names. Out: a table of right answers by kind of question and length of the video, beside uniform
frames; with --picture, the heat map of length by place of the frames that a question chooses. Scores and features of a frame do
not depend on its place, so the scenes of a haystack are encoded once for all lengths and places.

    python benchmarks/needle.py --lengths 256 1024 4096 16384 --questions 40 --picture needle.png
    python benchmarks/needle.py --clutter normal --scenes 200 --lengths 256 768 --questions 12
"""

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import load_file, save_file

from hicom_hf import FrameSelection, HiComForConditionalGeneration, HiComProcessor, hicom_tiny
from hicom_hf.modeling.frame_scores_hicom import frame_changes
from hicom_hf.processors.frame_selection_hicom import choose_frames, combine_scores, find_shots, question_parts
from hicom_hf.shapes import Name, Question, Scene, is_right, questions, render

SCENE_FRAMES = 16
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
NEEDLE_SEED, HAY_SEED = 5_000_000, 900_000
ATTRIBUTES, EVENTS = ("colour", "shape", "texture", "where"), ("motion", "when")
GROUPS = ("attributes", "motion, when", "exist: yes", "exist: no", "two needles: order")
METHODS = ("question 8", "uniform 8", "uniform 64")
READ_TOGETHER = 256  # scenes' frames that are scored together
MAX_READ_ALL = 256  # frames; hicom-tiny's LLM reads 4,096 tokens


@dataclass
class Scenes:
    """Encoded scenes: features and aligned features (n, 16, H, W, D) in bfloat16, changes within each (n, 15)."""

    scenes: list[Scene]
    features: torch.Tensor
    aligned_features: torch.Tensor
    changes: torch.Tensor


@dataclass
class Trial:
    """A question about one needle, or about two, and the names that no other scene may hold."""

    group: str
    question: Question
    needles: list[Scene]
    names: list[Name]


def encode(model, processor, scenes: list[Scene]) -> Scenes:
    parts = defaultdict(list)
    for scene in scenes:
        frames = render(scene, num_frames=SCENE_FRAMES)[0]
        pixels = processor.video_processor(frames, num_frames=SCENE_FRAMES)["pixel_values_videos"]
        features, aligned_features = model.encode_frames(pixels)
        parts["features"].append(features.bfloat16())
        parts["aligned_features"].append(aligned_features.bfloat16())
        parts["changes"].append(frame_changes(features))
    return Scenes(scenes, **{name: torch.stack(part) for name, part in parts.items()})


def haystack_scenes(model, processor, clutter: str, count: int, folder: Path | None) -> Scenes:
    """The scenes of all haystacks of one clutter, from a file if they were encoded before."""
    scenes = [Scene.from_seed(HAY_SEED + number, clutter=clutter, split="test") for number in range(count)]
    path = None if folder is None else folder / f"{clutter}-{count}.safetensors"
    if path is not None and path.exists():
        return Scenes(scenes, **load_file(path))
    encoded = encode(model, processor, scenes)
    if path is not None:
        save_file({name: getattr(encoded, name) for name in ("features", "aligned_features", "changes")}, path)
    return encoded


def trials(count: int) -> list[Trial]:
    """`count` questions of each group, kinds in turn."""
    found: dict[str, list[Trial]] = {group: [] for group in GROUPS}
    dice, seed = random.Random(0), NEEDLE_SEED
    while any(len(some) < count for some in found.values()):
        scene, other = (Scene.from_seed(seed + step, clutter="normal", split="test") for step in (0, 1))
        seed += 2
        asked = {question.kind: question for question in questions(scene, 1)}
        for group, kinds in (("attributes", ATTRIBUTES), ("motion, when", EVENTS)):
            question = asked.get(kinds[len(found[group]) % len(kinds)])
            if question is not None:
                found[group].append(Trial(group, question, [scene], [question.referents[0].name]))
        question = asked.get("exist")
        if question is not None:
            names = [found.name for found in question.referents] or [
                name for name in scene.absent if name.phrase in question.text
            ]
            group = f"exist: {question.answer}"
            found[group].append(Trial(group, question, [scene], names))
        pair = _two_needles(scene, other, dice)
        if pair is not None:
            found["two needles: order"].append(pair)
    return [trial for group in GROUPS for trial in found[group][:count]]


def _two_needles(scene: Scene, other: Scene, dice: random.Random) -> Trial | None:
    """A question about the order of an object of each scene; the first scene comes first."""
    one, two = dice.choice(scene.subjects), dice.choice(other.subjects)
    if _holds(other, [one.name]) or _holds(scene, [two.name]):
        return None
    end = dice.choice(("first", "last"))
    named = dice.sample([one.name.phrase, two.name.phrase], 2)
    text = f"Which comes {end}, the {named[0]} or the {named[1]}?"
    question = Question("order", text, (one if end == "first" else two).name.phrase, tuple(named), (one, two))
    return Trial("two needles: order", question, [scene, other], [one.name, two.name])


def _holds(scene: Scene, names: list[Name]) -> bool:
    return any(name.fits(*found.attributes) for name in names for found in scene.objects)


class Film:
    """A needle (or two) at a place of a haystack, by reference to encoded scenes: `parts` are (Scenes, number)."""

    def __init__(self, parts, scores, cuts):
        self.parts = parts
        self.scores = combine_scores(torch.cat([scores[id(of)][:, number] for of, number in parts], dim=1).tolist())
        self.changes = []
        for place, (of, number) in enumerate(parts):
            self.changes += of.changes[number].tolist()
            if place + 1 < len(parts):
                self.changes.append(cuts((of, number), parts[place + 1]))

    def __len__(self) -> int:
        return len(self.parts) * SCENE_FRAMES

    def features(self, frames) -> dict[str, torch.Tensor]:
        taken = [(*self.parts[frame // SCENE_FRAMES], frame % SCENE_FRAMES) for frame in frames]
        return {
            name: torch.stack([getattr(of, name)[number, frame] for of, number, frame in taken]).float()
            for name in ("features", "aligned_features")
        }


class Bench:
    def __init__(self, model, processor, hay: Scenes, haystacks: int, everything: bool):
        self.model, self.processor, self.hay = model, processor, hay
        self.haystacks, self.everything = haystacks, everything
        self.selection = FrameSelection(num_frames=8)
        self.right = defaultdict(list)  # (group, method, length, place) -> right or wrong
        self.found = defaultdict(list)  # likewise, for the question: whether every needle gave a frame
        self.flat = defaultdict(list)
        self._cuts = {}

    def cut(self, one, other) -> float:
        """The change between two scenes."""
        key = (id(one[0]), one[1], id(other[0]), other[1])
        if key not in self._cuts:
            pair = torch.stack([one[0].features[one[1], -1], other[0].features[other[1], 0]])
            self._cuts[key] = frame_changes(pair).item()
        return self._cuts[key]

    def scores(self, scenes: Scenes, scorers) -> torch.Tensor:
        """Of each part of the question, (P, scenes, 16)."""
        keys = scenes.aligned_features.flatten(0, 1).split(READ_TOGETHER)
        parts = [
            torch.cat([scorer.frame_scores(chunk)[0] for chunk in map(torch.Tensor.float, keys)]) for scorer in scorers
        ]
        return torch.stack(parts).unflatten(1, (-1, SCENE_FRAMES))

    def run(self, trial: Trial, number: int, lengths: list[int]) -> None:
        needles = encode(self.model, self.processor, trial.needles)
        self._cuts = {key: value for key, value in self._cuts.items() if key[0] == key[2] == id(self.hay)}
        text = trial.question.text
        ids = [self.processor.encode_instructions([part]) for part in question_parts(text)]
        scorers = [self.model.frame_scorer(one) for one in ids]
        scores = {id(scenes): self.scores(scenes, scorers) for scenes in (self.hay, needles)}
        usable = [place for place, scene in enumerate(self.hay.scenes) if not _holds(scene, trial.names)]
        random.Random(number % self.haystacks).shuffle(usable)
        cells, videos = [], []
        for length in lengths:
            num_hay = length // SCENE_FRAMES - len(trial.needles)
            if num_hay > len(usable):
                continue
            for place in PLACES:
                parts = [(self.hay, scene) for scene in usable[:num_hay]]
                at = round(place * num_hay)
                if len(trial.needles) == 2:  # half the video apart, the first one in its first half
                    at = round(place / 2 * num_hay)
                    parts.insert(at + num_hay // 2, (needles, 1))
                parts.insert(at, (needles, 0))
                film = Film(parts, scores, self.cut)
                self._choose(film, trial, (length, place), cells, videos)
        alone = list(range(0, SCENE_FRAMES, 2))
        whole = Film([(needles, each) for each in range(len(trial.needles))], scores, self.cut)
        cells.append((trial.group, "the scene alone", 0, 0.0))
        videos.append(whole.features(alone if len(trial.needles) == 1 else [2, 6, 10, 14, 18, 22, 26, 30]))
        for cell, answer in zip(cells, self.ask(videos, text), strict=True):
            self.right[cell].append(is_right(answer, trial.question.answer))

    def _choose(self, film: Film, trial: Trial, where, cells, videos) -> None:
        shots = find_shots(film.changes, 4)
        even = FrameSelection("uniform", num_frames=8)
        for method, selection, budget in (
            ("question 8", self.selection, 8),
            ("uniform 8", even, 8),
            ("uniform 64", even, 64),
            ("everything", even, len(film)),
        ):
            if method == "everything" and (len(film) > MAX_READ_ALL or not self.everything):
                continue
            record = choose_frames(selection, budget, 4, len(film), scores=film.scores, shots=shots)
            cells.append((trial.group, method, *where))
            videos.append(film.features(record.frames))
            if method == "question 8":
                parts = {(id(of), number) for of, number in (film.parts[f // SCENE_FRAMES] for f in record.frames)}
                needed = {(id(of), number) for of, number in film.parts if of is not self.hay}
                self.found[(trial.group, method, *where)].append(needed <= parts)
                self.flat[(trial.group, method, *where)].append(record.used == "uniform")

    def ask(self, videos: list[dict], text: str) -> list[str]:
        """The same question about several videos; those of one length together."""
        answers: list[str] = [""] * len(videos)
        by_length = defaultdict(list)
        for number, video in enumerate(videos):
            by_length[len(video["features"])].append(number)
        for num_frames, numbers in by_length.items():
            chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
            inputs = self.processor.apply_chat_template(
                [chat] * len(numbers),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                video_num_frames=[num_frames] * len(numbers),
            )
            features = {name: torch.cat([videos[number][name] for number in numbers]) for name in videos[0]}
            features["num_frames"] = torch.tensor([num_frames] * len(numbers))
            output = self.model.generate(**inputs, video_features=features, max_new_tokens=10, do_sample=False)
            texts = self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for number, answer in zip(numbers, texts, strict=True):
                answers[number] = answer
        return answers


def percent(values: list[bool]) -> str:
    return f"{100 * sum(values) / len(values):.0f}" if values else "-"


def report(bench: Bench, lengths: list[int]) -> list[str]:
    """A markdown table: one row per group and method, one column per length, over all places."""
    lines = [f"| | | {' | '.join(f'{length:,}' for length in lengths)} |", f"|---|---|{'---|' * len(lengths)}"]

    def over_places(table, group, method, length):
        return [value for place in PLACES for value in table[group, method, length, place]]

    for group in GROUPS:
        alone = percent(bench.right[group, "the scene alone", 0, 0.0])
        lines.append(f"| **{group}** | the scene alone, 8 frames | {' | '.join([alone] * len(lengths))} |")
        for method in (*METHODS, "everything") if bench.everything else METHODS:
            row = [percent(over_places(bench.right, group, method, length)) for length in lengths]
            lines.append(f"| | {method} | {' | '.join(row)} |")
        if group != "exist: no":
            row = [percent(over_places(bench.found, group, "question 8", length)) for length in lengths]
            lines.append(f"| | of the question: every needle found | {' | '.join(row)} |")
        row = [percent(over_places(bench.flat, group, "question 8", length)) for length in lengths]
        lines.append(f"| | of the question: flat, so uniform | {' | '.join(row)} |")
    return lines


def draw(bench: Bench, lengths: list[int], path: Path) -> None:
    """The heat maps of length by place, one per group, of the frames that a question chooses and of uniform ones."""
    from PIL import Image, ImageDraw

    cell, left, top, gap = (46, 26), 130, 46, 26
    width = left + 2 * (len(PLACES) * cell[0] + gap)
    height = len(GROUPS) * (top + len(lengths) * cell[1])
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for row, group in enumerate(GROUPS):
        y = row * (top + len(lengths) * cell[1])
        for column, method in enumerate(("question 8", "uniform 8")):
            x = left + column * (len(PLACES) * cell[0] + gap)
            pen.text((x, y + 8), f"{group}, {method} frames (%)", fill="black")
            for index, place in enumerate(PLACES):
                pen.text((x + index * cell[0] + 12, y + 28), f"{place:.0%}", fill="black")
            for line, length in enumerate(lengths):
                edge = y + top + line * cell[1]
                if column == 0:
                    pen.text((10, edge + 7), f"{length:,} frames", fill="black")
                for index, place in enumerate(PLACES):
                    values = bench.right[group, method, length, place]
                    share = sum(values) / len(values) if values else 0.0
                    colour = (
                        (int(235 - 180 * share), int(95 + 95 * share), int(80 + 30 * share)) if values else "lightgrey"
                    )
                    box = (x + index * cell[0], edge, x + (index + 1) * cell[0] - 2, edge + cell[1] - 2)
                    pen.rectangle(box, fill=colour)
                    pen.text((box[0] + 12, edge + 7), percent(values), fill="white")
    image.save(path)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clutter", default="sparse", help="of the haystack's scenes")
    parser.add_argument("--scenes", type=int, default=1700, help="that haystacks are drawn from")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096, 16384], help="frames of the video")
    parser.add_argument("--questions", type=int, default=40, help="of each group")
    parser.add_argument("--haystacks", type=int, default=3, help="orders of the scenes, which questions take in turn")
    parser.add_argument("--everything", action="store_true", help="also read all frames, where the LLM can")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the encoded scenes here for the next run")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the heat maps")
    arguments = parser.parse_args()
    model = HiComForConditionalGeneration.from_pretrained(hicom_tiny(), dtype=torch.float32).eval()
    processor = HiComProcessor.from_pretrained(hicom_tiny())
    started = perf_counter()
    hay = haystack_scenes(model, processor, arguments.clutter, arguments.scenes, arguments.keep)
    print(f"{len(hay.scenes)} scenes of the haystacks after {perf_counter() - started:.0f} s", file=sys.stderr)
    bench = Bench(model, processor, hay, arguments.haystacks, arguments.everything)
    for number, trial in enumerate(trials(arguments.questions)):
        bench.run(trial, number, arguments.lengths)
        if number % arguments.questions == arguments.questions - 1:
            print(f"{trial.group}: after {perf_counter() - started:.0f} s", file=sys.stderr)
    print("\n".join(report(bench, arguments.lengths)))
    if arguments.picture:
        draw(bench, arguments.lengths, arguments.picture)


if __name__ == "__main__":
    main()
