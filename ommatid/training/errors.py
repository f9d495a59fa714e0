"""Errors that a training itself raises."""


class TrainingError(ValueError):
    """The training can't go on; the message says why, and where to look."""
