"""Network definitions, one module per family."""
