"""Makes hicom-tiny: a small HICom for the shapes world, trained from nothing (docs/hicom_tiny.md)."""
