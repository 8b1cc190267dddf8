"""Why a trial cannot go on, in a form that travels between processes."""


class TrialFailure(Exception):  # noqa: N818 -- not every failure of a trial is an error of the program
    """Why a trial cannot go on.

    Args:
        kind: ``input``, which no retry mends; ``memory``; or ``storage``, which concerns all trials.
        message: In one line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message
