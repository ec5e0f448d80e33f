"""Evaluation; so far the client of endpoints, which `dataset_building` uses as well."""
