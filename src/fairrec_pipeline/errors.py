"""The one family of errors that a user can mend; anything else is a bug.

The command line turns them into one message and exit code 2 (`cli.py`), the server into a status and a sentence.
"""


class FairrecError(Exception):
    """Something that cannot be done as asked. The message says what, what was found, what is allowed and what to do."""


class OptionError(FairrecError, ValueError):
    """Options that do not fit each other, the data or the machine."""


class DataError(FairrecError, ValueError):
    """Data that cannot be used, or that do not belong together."""
