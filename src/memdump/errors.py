"""The errors that reach a user: one line that says what happened and what to do.

Each class carries the exit status of the command line.  This module is part of the acquisition side, so it
keeps to the standard library and to Python 3.8.
"""


class MemdumpError(Exception):
    """Something went wrong; the message is one line for the user.

    Status 1: part of the memory or of the answer is missing.
    """

    exit_status = 1


class UsageError(MemdumpError):
    """What was asked for makes no sense: an unknown table, a bad expression, an output that exists."""

    exit_status = 2


class NotADump(MemdumpError):
    """The input cannot be read as a memory image."""

    exit_status = 3


class NotPermitted(MemdumpError):
    """Not permitted here; the message says what would permit it."""

    exit_status = 4
