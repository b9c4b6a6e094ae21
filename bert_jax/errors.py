"""The one kind of error that a user can cause; everything may raise it."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line: the thing, its value, the remedy. Drivers print it without a traceback
    and end with exit status 1.
    """
