"""The one exception that a command line turns into a plain message and exit code 2."""


class UserError(ValueError):
    """What the caller gave cannot be used; the message says what was given, what was expected and what to do."""
