"""Parity with the official program: its reference numbers against ours."""
