"""Data sets, packed batches and the order of events."""
