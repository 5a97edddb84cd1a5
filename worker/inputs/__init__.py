"""Fetch and decode inputs, whose bytes come from callers and may be malicious."""
