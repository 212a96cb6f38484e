"""Numbers computed from predictions."""
