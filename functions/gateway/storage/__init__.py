"""Blob storage: store and read blobs, payloads and uploads, and delete them when they expire."""
