"""The paper's ablations in miniature: hicom-tiny's stages over the shapes world, one arm after the other (docs/ablations.md)."""
