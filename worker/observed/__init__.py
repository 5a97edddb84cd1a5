"""What operators see: health, logs, traces."""
