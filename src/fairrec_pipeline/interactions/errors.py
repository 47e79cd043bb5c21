"""The one exception of the data stages."""


class DataError(ValueError):
    """Data that cannot be used; the message says what, what was found, what is allowed and what to do next."""
