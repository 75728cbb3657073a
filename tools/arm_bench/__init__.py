"""Parts of tools/bench_arm.py: an ARM system to run peers in, the peers, our bundles, llvm-mca."""
