"""Sequential recommenders that serve every group of users well, trained, compared and shipped with Kedro."""

__version__ = "0.1.0"
