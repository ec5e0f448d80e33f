"""Pre-training of the small LLM: it learns the world's words, and to answer from contexts of packed words.

Letters: B samples, N context tokens, O objects, C LLM width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from hicom_hf.assembly.from_parts import VIDEO_TOKEN
from hicom_hf.data.encoding import IGNORED
from hicom_hf.shapes.dice import Dice

from .optimizing import TrainingLog, make_optimizers, rate_at, take_step
from .packed_contexts import (
    CONDITIONAL,
    DRAWN_KINDS,
    UNCONDITIONAL,
    ContextSettings,
    PackedBatch,
    PackedScene,
    draw_packed,
    drawn_as,
    value_word_ids,
)
from .sizes import LANGUAGE
from .word_tokenizers import LLM_TOKENS, llm_tokenizer

CONTEXT_STREAM = 2
UNCONDITIONAL_SHARE = (0.7, 0.4)  # of the batches, at first and in the end
HELD = 0.6  # fraction of the steps before the rate falls
FIRST_FILL, FILL_STEP = 0.05, 0.05  # of the curriculum
MUST_BE_KNOWN = tuple(kind for kind in DRAWN_KINDS if kind != "vague")  # before the clutter grows
EASY = 0.8  # accuracy of the worst kind in conditional contexts from which contexts get harder
PATIENCE = 20  # smallest number of batches before contexts get harder again
LATEST = (0.45, 0.7)  # fractions of the steps between which contexts get harder in any case
MEMORY = 0.9  # of the running fraction of right answers of each kind, per batch that has the kind
LEAST_WEIGHT = 0.03  # of a kind that is always answered correctly; a kind that never is weighs 1 more
# To what power the weights are taken. In unconditional contexts, asking mostly for an order would leave little to look for.
EMPHASIS = {"conditional": 2, "unconditional": 1}
SCALE_RANGE = (0.6, 1.4)  # every token is multiplied by some number of these
NOISE = (0.5, 1.0)  # largest noise on a token at first and in the end, in standard deviations of the embeddings
SMOOTHING = 0.05
ATTENTION_STD = 0.06  # of new attention weights, see `PackedReader`
WORD_STD = 0.1  # of new word embeddings; sums of words become distinguishable sooner than with the usual 0.02
PLACE_WORDS = (("top", "bottom"), ("left", "right"))
PLACE_SLOPE = 2.0  # the words are clear away from the middle
PLACE_WEIGHT = 1.0  # of the words for the place, beside those for an object


@dataclass(frozen=True)
class LanguageTraining:
    """How long and how fast.

    Args:
        steps: of the optimisers.
        batch_size: samples per step.
        rate: of both optimisers.
    """

    steps: int = 7000
    batch_size: int = 64
    rate: float = 2e-3


class PackedReader(nn.Module):
    """An LLM that reads packed contexts; the background's vector and the scale go with the training only.

    Queries and keys begin equal, outputs as transposed values: a word attends to where it occurs, and copies what is there, from
    the first step. That an LLM must find the object it is asked about is learnt in half of the steps then.
    Source: Trockman and Kolter, Mimetic Initialization of Self-Attention Layers, ICML 2023.
    """

    def __init__(self):
        super().__init__()
        self.model = Qwen2ForCausalLM._from_config(Qwen2Config(**LANGUAGE), attn_implementation="eager")
        self.background = nn.Parameter(torch.randn(LANGUAGE["hidden_size"]) * WORD_STD)
        nn.init.normal_(self.model.get_input_embeddings().weight, std=WORD_STD)
        with torch.no_grad():
            for layer in self.model.model.layers:
                attention = layer.self_attn
                attention.k_proj.weight.copy_(attention.q_proj.weight.normal_(std=ATTENTION_STD))
                attention.o_proj.weight.copy_(attention.v_proj.weight.normal_(std=ATTENTION_STD).T)
        place_words = [[LLM_TOKENS.index(word) for word in words] for words in PLACE_WORDS]
        self.register_buffer("place_words", torch.tensor(place_words), persistent=False)
        self.register_buffer("value_words", value_word_ids(LLM_TOKENS), persistent=False)

    def embed(self, batch: PackedBatch, noise: float) -> torch.Tensor:
        """Context tokens (B, N, C)."""
        table = self.model.get_input_embeddings().weight
        places = torch.arange(batch.attributes.shape[-1])
        objects = table[self.value_words[places, batch.attributes]].sum(2)  # (B, O, C)
        background = self.background.expand(len(objects), 1, -1)
        tokens = batch.weights @ torch.cat([objects, background], 1)  # (B, N, C)
        first, last = table[self.place_words].unbind(1)  # (2, C) each: top and left, bottom and right
        places = ((batch.places - 0.5) * PLACE_SLOPE + 0.5).clamp(0, 1)
        tokens = tokens + PLACE_WEIGHT * (first.sum(0) + places @ (last - first))
        if noise:
            spread = table.std().detach()
            scale = torch.empty(tokens.shape[0], tokens.shape[1], 1).uniform_(*SCALE_RANGE)
            level = torch.rand(len(tokens), 1, 1) * noise * spread * batch.strengths[:, None, None]
            shared = torch.randn(len(tokens), 1, tokens.shape[-1]) * level
            tokens = tokens * scale + torch.randn_like(tokens) * level + shared
        return tokens

    def forward(self, batch: PackedBatch, encoded: "EncodedTexts", noise: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and which samples are answered without a mistake (B,)."""
        embedded = self.model.get_input_embeddings()(encoded.input_ids)  # (B, L, C)
        mask = encoded.input_ids == LLM_TOKENS.index(VIDEO_TOKEN)
        embedded = embedded.masked_scatter(mask[..., None], self.embed(batch, noise)[batch.present].to(embedded.dtype))
        hidden = self.model.model(inputs_embeds=embedded, attention_mask=encoded.attention_mask).last_hidden_state
        supervised = encoded.labels[:, 1:] != IGNORED
        logits = self.model.lm_head(hidden[:, :-1][supervised]).float()
        targets = encoded.labels[:, 1:][supervised]
        wrong = torch.zeros(supervised.shape, dtype=torch.long)
        wrong[supervised] = (logits.argmax(-1) != targets).long()
        loss = nn.functional.cross_entropy(logits, targets, label_smoothing=SMOOTHING)
        return loss, wrong.sum(1) == 0


@dataclass
class EncodedTexts:
    """Token ids (B, L), right-padded, `<|video_pad|>` once per context token."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def encode_texts(batch: PackedBatch, tokenizer) -> EncodedTexts:
    """Prompts in the layout of the chat template, with labels on the answers."""
    rows, starts = [], []
    for question, present in zip(batch.questions, batch.present, strict=True):
        context = VIDEO_TOKEN * int(present.sum())
        chat = [{"role": "user", "content": f"{context}\n{question.text}"}]
        asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        asked_ids = tokenizer(asked)["input_ids"]
        starts.append(len(asked_ids))
        rows.append(asked_ids + tokenizer(question.answer)["input_ids"] + [tokenizer.eos_token_id])
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, start : len(tokens)] = ids[row, start : len(tokens)]
    return EncodedTexts(ids, mask, labels)


def train_language_model(
    scenes: list[PackedScene],
    sparse_scenes: list[PackedScene],
    pictures: list[PackedScene],
    training: LanguageTraining,
    seed: int,
    log: TrainingLog,
) -> PackedReader:
    """Pre-train the LLM: scenes fill up as it understands them, and it is asked more often what it answers worse.

    Where most contexts hold what is asked for and little else, an LLM learns to take what is heaviest, and hardly ever to look
    for anything. So most contexts are unconditional at first, and those are clear and in one raster.

    Args:
        scenes: what conditional contexts are made of.
        sparse_scenes: what unconditional contexts are made of, which must leave something to find.
        pictures: what both are made of.
        training: how long.
        seed: of weights and batches.
        log: takes the losses.
    """
    torch.manual_seed(seed)
    reader, tokenizer, dice = PackedReader(), llm_tokenizer(), Dice(seed, CONTEXT_STREAM)
    optimizers = make_optimizers(reader, training.rate)
    fill, latest, waited = FIRST_FILL, 0.0, 0
    known = {name: dict.fromkeys(DRAWN_KINDS, 0.0) for name in EMPHASIS}  # running fractions of right answers
    for step in log.steps(training.steps):
        conditional = not dice.happens(_between(UNCONDITIONAL_SHARE, latest))
        name = "conditional" if conditional else "unconditional"
        answered = known[name]
        settings = ContextSettings(
            fill=fill if conditional else 1.0,
            sharpness=CONDITIONAL if conditional else UNCONDITIONAL,
            variety=fill,
            kind_weights={kind: (LEAST_WEIGHT + 1 - share) ** EMPHASIS[name] for kind, share in answered.items()},
        )
        batch = draw_packed(scenes if conditional else sparse_scenes, pictures, training.batch_size, settings, dice)
        rate_at(optimizers, training.rate, step, training.steps, HELD)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, right = reader(batch, encode_texts(batch, tokenizer), _between(NOISE, fill))
        take_step(reader, optimizers, loss)
        shares = _shares_right(right, [drawn_as(question) for question in batch.questions])
        for kind in DRAWN_KINDS:
            answered[kind] += (1 - MEMORY) * (shares.get(kind, answered[kind]) - answered[kind])
        worst = min(known["conditional"][kind] for kind in MUST_BE_KNOWN)
        waited += 1
        if waited >= PATIENCE and worst > EASY:
            fill, waited = fill + FILL_STEP, 0
        latest = min(1.0, max(0.0, (step / training.steps - LATEST[0]) / (LATEST[1] - LATEST[0])))
        fill = min(1.0, max(fill, latest))
        values = {"right": right.float().mean().item(), **shares}
        log.add(step, {"loss": loss.item(), "fill": fill, **{f"{name}/{key}": value for key, value in values.items()}})
    return reader.eval()


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _shares_right(right: torch.Tensor, kinds: list[str]) -> dict[str, float]:
    """Fraction of samples of each kind that are answered without a mistake."""
    return {kind: right[[kind == other for other in kinds]].float().mean().item() for kind in sorted(set(kinds))}


def save_language_model(reader: PackedReader, folder: Path) -> None:
    """Write the LLM as a checkpoint that `hicom_hf.assembly.from_parts` takes like any other."""
    reader.model.save_pretrained(folder)
    llm_tokenizer().save_pretrained(folder)
