"""Blob storage: access to blobs, payloads and uploads, and their deletion after the retention."""
