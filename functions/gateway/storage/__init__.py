"""Blob storage: payloads, uploads, signed links, and the housekeeping of what is left."""
