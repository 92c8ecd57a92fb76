"""Prometheus rules and the Grafana dashboard, and the programs that write and draw it."""
