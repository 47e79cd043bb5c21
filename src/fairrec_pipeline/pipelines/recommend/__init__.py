"""Top-k items for every user, from a trained arm."""
