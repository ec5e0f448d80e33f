"""What a user writes is text, also where it looks like a special token: the processor's part of it."""

from typing import Any

from transformers.processing_utils import _MARKED_RE

from .instruction_hicom import unescaped


class UserText:
    """What `HiComProcessor` does with special tokens that a user wrote; it needs the processor's tokenizer and template."""

    tokenizer: Any
    _resolve_chat_template: Any

    def marked(self, chat: list[dict]) -> list[dict]:
        """A chat whose special tokens in texts are marked as words, so that a tokenizer called with
        `sanitize_control_tokens=True` reads them as plain text; what a chat template adds stays special.
        """
        template = self._resolve_chat_template(None)
        return self.tokenizer._mark_chat_inputs(template, [chat], None, None, {}, True, False)[0][0]

    @staticmethod
    def is_marked(text: str) -> bool:
        """Whether a rendered text holds special tokens that `marked` turned into words."""
        return _MARKED_RE.search(text) is not None

    @staticmethod
    def without_marked(text: str) -> str:
        """A rendered text without the special tokens that a user wrote; a line break keeps what stands around them apart."""
        return _MARKED_RE.sub("\n", text)

    def as_written(self, text: str) -> str:
        """A rendered text with the words that it stands for: escaped tags, and a marked token for unknown words.

        A tokenizer of whole words reads its token for unknown words from plain text as itself, so that transformers cannot
        sanitise it; it stands for a word and steers nothing.
        """
        text, unknown = unescaped(text), self.tokenizer.unk_token
        if unknown is None or not self.is_marked(text):
            return text
        plain = self.tokenizer(unknown, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if self.tokenizer.unk_token_id not in plain:
            return text
        return _MARKED_RE.sub(lambda found: unknown if found[0][1:-1] == unknown else found[0], text)
