"""The Grafana dashboards as code. `python -m grafana.build` generates their JSON in grafana/dashboards/."""
