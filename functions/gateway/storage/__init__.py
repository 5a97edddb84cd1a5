"""Blob storage: blobs, payloads, uploads, and the deletion of what is past its retention."""
