"""The benchmark: `python -m bench` compares the exporter with other programs and updates docs/performance.md."""
