"""Serving: an engine that answers many clients with one model, an OpenAI-compatible server and a web page on it."""
