"""What snnrun adds to Hydra, which imports these modules whenever it starts: what is heavy is imported in functions."""
