"""The instruction's part of the processor: from texts to the ids that SigLIP's text tower reads.

Letters: V videos and images, L = 64 instruction tokens.
"""

import warnings
from typing import Any

import torch

from .instruction_hicom import (
    PLACEHOLDERS,
    InstructionRules,
    InstructionWarning,
    extract_instruction,
    last_user_text,
    user_text_of_prompt,
    without_placeholders,
)


class InstructionEncoding:
    """What `HiComProcessor` does with instructions; it needs the processor's tokenizers and settings."""

    tokenizer: Any
    instruction_tokenizer: Any
    image_token: str
    video_token: str
    instruction_length: int
    instruction_rules: InstructionRules

    @property
    def placeholders(self) -> tuple[str, str]:
        """The tokens that stand for an image and for a video."""
        return self.image_token, self.video_token

    @property
    def instruction_marks(self) -> tuple[str, ...]:
        """Texts that are not part of an instruction: placeholders of visual input, and the LLM's special tokens."""
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        special = [token for token in (*self.tokenizer.all_special_tokens, *added) if token.strip()]
        return tuple(dict.fromkeys((*self.placeholders, *PLACEHOLDERS, *special)))

    def extract_instruction(self, text: str, report: bool = True) -> str:
        """Which words of a user's text condition the compression: the one rule for chats, calls, pipelines and training.

        Args:
            text: what the user wrote in one turn, with or without placeholders. A tag `<video>` or `<image>` with a backslash
                in front is a word.
            report: warn where a text with words leaves nothing.

        Returns:
            The question without options, answer formats, subtitles and placeholders, by the rules of `instruction_rules`.

        Example:
            >>> processor.extract_instruction("<video>\\nWho is it?\\n(A) Ann\\n(B) Bob")  # doctest: +SKIP
            'Who is it?'
        """
        marks = self.instruction_marks
        instruction = extract_instruction(text, marks, self.instruction_rules)
        if report and not instruction.strip() and without_placeholders(text, marks).strip():
            warnings.warn(
                f"no question was found in {_shortened(text)}, only options or requests for a format; the video is "
                "compressed on no condition. Pass instruction= to say what is asked",
                InstructionWarning,
                stacklevel=2,
            )
        return instruction

    def instruction_of_chat(self, chat: list[dict]) -> str:
        """The words of a chat's last user turn that condition the compression; see `extract_instruction`."""
        return self.extract_instruction(last_user_text(chat, visual=self.video_token))

    def encode_instructions(self, texts: list[str], report: bool = True) -> torch.Tensor:
        """Instruction ids as SigLIP's text tower was trained on them: padded to all its positions, no mask.

        An empty text becomes padding only.

        Args:
            texts: V instructions.
            report: warn where a text is longer than L and its end is cut off.

        Returns:
            (V, L) int64.

        Raises:
            TypeError: if one of them is not a string.
            ValueError: if one of them is no Unicode text.
        """
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"every instruction must be a string, got {[type(text).__name__ for text in texts]}")
        check_unicode(texts)
        for text in dict.fromkeys(texts) if report else ():
            length = self.num_instruction_tokens(text)
            if length > self.instruction_length:
                warnings.warn(
                    f"the instruction {_shortened(text)} has {length} tokens; the compression sees the first "
                    f"{self.instruction_length}. Pass a shorter question as instruction=",
                    InstructionWarning,
                    stacklevel=2,
                )
        ids = self.instruction_tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.instruction_length, return_tensors="pt"
        )["input_ids"]
        empty = torch.tensor([not text.strip() for text in texts])
        return ids.masked_fill(empty[:, None], self.instruction_tokenizer.pad_token_id)

    def num_instruction_tokens(self, text: str) -> int:
        """Tokens of an instruction; what exceeds `instruction_length` is cut off."""
        return len(self.instruction_tokenizer(text, verbose=False)["input_ids"])

    def _instructions(self, rows: list[str], kinds: list[list[str]], instruction) -> dict[str, torch.Tensor]:
        """Instruction ids for every video and image."""
        visuals = [(row, kind) for row, row_kinds in enumerate(kinds) for kind in row_kinds]
        if not visuals:
            return {}
        if instruction is None:
            special_tokens = set(self.tokenizer.all_special_tokens) | set(self.tokenizer.get_added_vocab())
            marks = self.instruction_marks
            texts = [
                self.extract_instruction(user_text_of_prompt(row, special_tokens, marks)) if row_kinds else ""
                for row, row_kinds in zip(rows, kinds, strict=True)
            ]
            per_visual = [texts[row] for row, _ in visuals]
        elif not isinstance(instruction, (str, list, tuple)):
            raise TypeError(f"instruction must be a string or a list of strings, got {type(instruction).__name__}")
        elif isinstance(instruction, str):
            per_visual = [instruction] * len(visuals)
        elif len(instruction) == len(rows):
            per_visual = [instruction[row] for row, _ in visuals]
        elif len(instruction) == len(visuals):
            per_visual = list(instruction)
        else:
            raise ValueError(
                f"got {len(instruction)} instructions for {len(rows)} rows with {len(visuals)} videos and images; give one "
                "for all, one per row, or one per video and image"
            )
        data = {}
        for kind in ("image", "video"):
            texts = [text for text, (_, of_kind) in zip(per_visual, visuals, strict=True) if of_kind == kind]
            if texts:
                data[f"{kind}_instruction_ids"] = self.encode_instructions(texts)
        return data


def check_unicode(texts: list[str]) -> None:
    """Refuse texts that no tokenizer reads: with halves of characters, as of a file that was read in the wrong encoding.

    Raises:
        ValueError: shows the text.
    """
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text {_shortened(text)} holds {text[error.start]!r}, half of a character; was it read in the wrong "
                "encoding?"
            ) from None


def _shortened(text: str, length: int = 80) -> str:
    return repr(text) if len(text) <= length else f"{text[:length]!r}..."
