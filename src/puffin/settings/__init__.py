"""Every setting, declared once: how its declaration becomes a flag, a preset entry and a checkpoint entry."""
