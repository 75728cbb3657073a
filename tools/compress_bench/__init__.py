"""Models made smaller: methods to compare, and a peer's child process (bench_compress.py)."""
