"""The training loop and the Task that it drives, schedules, optimizers, several processes."""
