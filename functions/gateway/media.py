"""Media types, as gateway and worker both tell them."""

from contract.media import JSON, OCTET_STREAM, TEXT, agrees, essence, sniff

__all__ = ["JSON", "OCTET_STREAM", "TEXT", "agrees", "essence", "sniff"]
