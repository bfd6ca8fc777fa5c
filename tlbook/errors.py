"""Define errors that more than one room raises."""


class TrainingError(RuntimeError):
    """Report that training cannot go on; the message says at which step and why."""
