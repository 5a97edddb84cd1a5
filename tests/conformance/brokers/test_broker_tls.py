"""Test that gateway and worker check the certificate of RabbitMQ and Redis, by real handshakes."""

import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contract.catalogue import Catalogue
from contract.settings import BrokerEndpoint, BrokerKind
from gateway.brokers.factory import make_queues
from gateway.errors import NoAnswer, Unavailable
from tests.broker_servers import running_rabbitmq, running_redis_server
from tests.conformance.brokers.broker_cases import receive, wait_until
from tests.conformance.brokers.gateway_calls import QUEUE, message
from tests.ports import free_port
from worker.brokers.factory import make_broker
from worker.brokers.port import MessageLink
from worker.errors import BrokerUnavailable

PASSWORD = "a-password-that-nobody-prints"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Files:
    """A server's key and certificate, which is for HOST only, and the authority's certificate."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TlsBroker:
    """A running broker whose `port` only speaks TLS."""

    kind: BrokerKind
    port: int
    files: Files

    def endpoint(self, host: str = HOST) -> BrokerEndpoint:
        at = f"{host}:{self.port}"
        if self.kind is BrokerKind.RABBITMQ:
            return BrokerEndpoint(self.kind, url=f"amqps://tls:{PASSWORD}@{at}/%2F")
        return BrokerEndpoint(self.kind, url=f"rediss://:{PASSWORD}@{at}/0")

    def link(self, host: str = HOST) -> MessageLink:
        return make_broker(self.endpoint(host), Catalogue.load()).open_link(QUEUE, 30.0)


def make_files(folder: Path) -> Files:
    """Make a certificate authority and a certificate that it has signed."""
    folder.mkdir()
    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {folder.name}")])

    def sign(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> bytes:
        alternatives = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(alternatives, critical=False)
            .sign(authority_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    key = ec.generate_private_key(ec.SECP256R1())
    files = Files(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    files.authority.write_bytes(sign(authority_name, authority_key, is_ca=True))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    files.certificate.write_bytes(sign(name, key, is_ca=False))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


@pytest.fixture(
    scope="module", params=[BrokerKind.RABBITMQ, BrokerKind.REDIS], ids=lambda kind: kind.value
)
def tls_broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsBroker]:
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    files = make_files(folder / "right")
    if request.param is BrokerKind.RABBITMQ:
        settings = (
            f"listeners.ssl.1 = {HOST}:{port}",
            f"ssl_options.cacertfile = {files.authority}",
            f"ssl_options.certfile = {files.certificate}",
            f"ssl_options.keyfile = {files.key}",
            "default_user = tls",
            f"default_pass = {PASSWORD}",
        )
        with running_rabbitmq(folder, *settings):
            # It accepts connections without TLS a moment earlier.
            wait_until(lambda: accepts(port), "connections with TLS")
            yield TlsBroker(request.param, port, files)
    else:
        options = (
            *("--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", PASSWORD),
            *("--tls-ca-cert-file", str(files.authority)),
            *("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)),
        )
        with running_redis_server(folder / "redis", *options):
            yield TlsBroker(request.param, port, files)


async def test_gateway_and_worker_trust_the_authority(
    tls_broker: TlsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_broker.files.authority))
    queues = make_queues(tls_broker.endpoint(), Catalogue.load(), None)
    try:
        await queues.send(QUEUE, message(1))
        await queues.check(QUEUE)
    finally:
        await queues.close()
    link = tls_broker.link()
    link.connect()
    try:
        (found,) = receive(link, 1)
        assert found.message_id == "job-1"
        assert link.complete_messages([found]) == [True]
    finally:
        link.disconnect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("is_right", "host", "reason"),
    [
        (False, HOST, "self-signed certificate in certificate chain"),
        (True, "localhost", "Hostname mismatch"),
    ],
    ids=["other-authority", "other-host"],
)
async def test_wrong_certificate_is_refused_without_a_secret(  # noqa: PLR0917 - fixtures
    tls_broker: TlsBroker,
    is_right: bool,
    host: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    files = tls_broker.files if is_right else make_files(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    queues = make_queues(tls_broker.endpoint(host), Catalogue.load(), None)
    try:
        with pytest.raises(Unavailable, match=reason) as sent:
            await queues.send(QUEUE, message(1))
        with pytest.raises(NoAnswer, match=reason) as checked:
            await queues.check(QUEUE)
    finally:
        await queues.close()
    with pytest.raises(BrokerUnavailable, match=reason) as connected:
        tls_broker.link(host).connect()
    for text in (str(sent.value), str(checked.value), str(connected.value), caplog.text):
        assert PASSWORD not in text
