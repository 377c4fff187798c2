"""The error a user can act on; the command line prints its message as one line."""


class EvalError(ValueError):
    """Wrong input or missing precondition: names the file, the value and the way out."""
