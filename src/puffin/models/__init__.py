"""Networks, each with a frozen dataclass of settings."""
