"""How fast the training step and the validation are, measured beside a plain padded implementation."""
