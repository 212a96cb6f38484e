"""Figures of data, training and predictions."""
