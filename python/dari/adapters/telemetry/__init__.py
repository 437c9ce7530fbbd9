"""Metrics for Prometheus, and traces for an OpenTelemetry collector."""
