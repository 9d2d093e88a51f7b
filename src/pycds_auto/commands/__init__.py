"""The sub-commands of `python -m pycds_auto`, one module each."""


class CommandError(Exception):
    """A command can't be done; the message is for a person, the status for the shell."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
