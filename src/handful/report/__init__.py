"""Figures from runs; no torch."""
