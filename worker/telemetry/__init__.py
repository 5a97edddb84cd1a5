"""Telemetry: metrics, traces, logs and health.

recording        record events of jobs and models as metrics, trace spans and log fields
setup            set up the destinations of logs and traces
health           decide whether the worker is alive and ready
health_server    the HTTP server for /live, /ready, /started and /metrics
"""
