"""Data sets, packed batches, and the order of events in an epoch."""
