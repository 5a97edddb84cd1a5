"""Choose the adapters of the object store by the settings."""

from contract.settings import AzureEndpoint, S3Endpoint
from gateway.storage.azure import AzureBlobs, AzureLinks, AzurePayloads, PayloadContainer
from gateway.storage.blobs import Blobs
from gateway.storage.payloads import PayloadLinks, PayloadStore


def make_storage(
    endpoint: AzureEndpoint | S3Endpoint, public_url: str | None
) -> tuple[PayloadStore, Blobs, PayloadLinks]:
    """Return the adapters of one store, which connect at their first use."""
    if isinstance(endpoint, S3Endpoint):
        # With Azure, obstore is not loaded.
        from gateway.storage.s3 import Bucket, S3Blobs, S3Links, S3Payloads  # noqa: PLC0415

        bucket = Bucket(endpoint)
        return S3Payloads(bucket), S3Blobs(bucket), S3Links(endpoint, public_url)
    container = PayloadContainer(endpoint)
    return AzurePayloads(container), AzureBlobs(container), AzureLinks(container, public_url)
