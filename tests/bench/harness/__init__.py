"""What `tests/bench/run` and `tests/bench/compare` are made of."""
