"""The one family of errors that a user can mend; anything else is a bug."""


class FairrecError(Exception):
    """Something that cannot be done as asked. The message says what, what was found, what is allowed and what to do."""
