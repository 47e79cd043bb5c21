"""The one exception of the data stages."""


class DataError(ValueError):
    """Data that cannot be used; the message says what is wrong, what is allowed and what to do next."""
