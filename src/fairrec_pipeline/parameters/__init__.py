"""Names, bounds and values of all parameters, and the one gate that checks them."""
