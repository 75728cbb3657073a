"""Kernel templates, one file a family: computation, knobs and schedule apart."""
