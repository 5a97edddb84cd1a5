"""Blob storage: store and read blobs, payloads and uploads, and delete them after a time."""
