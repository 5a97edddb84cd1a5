"""A Blob storage on one machine that the unmodified azure-storage-blob SDK talks to.

It speaks the part of the Blob REST API that concerns containers and block blobs, keeps
content in files and everything else in one SQLite index, and acknowledges a write only when
it is safe on disk. It knows Azure, and nothing of who uses it.
"""
