"""Fetch and decode inputs, and store large results.

The bytes come from callers and may be malicious. If a decoder cannot decode the bytes, it raises
InvalidInput. The caller sees the error's text.

    payloads    read large inputs from blob storage, and store large results (claim check)
    urls        fetch inputs from URLs
    images      decode images
    audio       decode WAV files
    tensors     decode arrays from .npy files and JSON
    text        decode text and JSON
"""
