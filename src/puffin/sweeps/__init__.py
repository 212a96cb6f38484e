"""Hyperparameter searches: spaces, storages, workers, reports."""
