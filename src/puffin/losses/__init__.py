"""Losses: how far predictions are from the truth."""
