"""The executor of compiled models: a generated C driver, and the C toolchain that links it."""
