"""Training: one arm (`train`), its grid (`tune`), a named `experiment`, the paper's methods (`__default__`)."""
