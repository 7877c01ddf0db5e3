"""Fuzzing of the parsers: valid files, mutated in many ways, read by our readers."""
