"""Speed and memory beside other libraries: python -m bench.run, python -m bench.report."""
