"""Metrics computed from predictions."""
