"""Which parts of the score decide what frames a question chooses (docs/long_video.md)."""
