"""The laboratory: how hicom-tiny is made, and the paper's ablations in miniature. Runs from a clone; it is not installed."""
