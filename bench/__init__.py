"""The benchmark: `python -m bench` measures the exporter beside others on this machine and writes docs/performance.md."""
