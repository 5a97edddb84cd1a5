"""The Open Inference Protocol, which the gateway serves under /v2."""
