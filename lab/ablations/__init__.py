"""The paper's ablations in miniature: hicom-tiny's stages over the shapes world (docs/ablations.md)."""
