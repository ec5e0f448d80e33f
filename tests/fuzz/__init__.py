"""Hostile and damaged inputs from a seed: what makes them, what runs them, and what may come out."""
