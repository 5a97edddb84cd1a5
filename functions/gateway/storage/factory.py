"""Choose the adapters of the object store by the settings."""

from contract.settings import AzureEndpoint
from gateway.storage.azure import AzureBlobs, AzureLinks, AzurePayloads, PayloadContainer
from gateway.storage.blobs import Blobs
from gateway.storage.payloads import PayloadLinks, PayloadStore


def make_storage(
    endpoint: AzureEndpoint, public_url: str | None
) -> tuple[PayloadStore, Blobs, PayloadLinks]:
    """Return the adapters of one store, which connect at their first use."""
    container = PayloadContainer(endpoint)
    return AzurePayloads(container), AzureBlobs(container), AzureLinks(container, public_url)
