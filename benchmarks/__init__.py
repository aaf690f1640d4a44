"""How long things take, against the plain ways of doing them: `python -m benchmarks`."""
