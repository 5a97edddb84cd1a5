"""Telemetry: metrics, traces, logs and health.

jobs             what is recorded about jobs and models: metrics, spans, log fields
setup            where logs and traces go
health           whether the worker is alive and takes jobs
health_server    the HTTP server for /live, /ready and /metrics
"""
