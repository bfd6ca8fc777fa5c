"""Errors that more than one room raises."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""
