"""The best arm on validation becomes the champion of its dataset."""
