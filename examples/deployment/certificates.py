"""Write a certificate authority, a server's certificate and a key pair for each node into a folder.

For trying things out: the authority's key is thrown away once it has signed, so what it signed cannot be added to.
"""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Certificates(NamedTuple):
    """Files: the authority's certificate, which everybody gets; the server's certificate and its private key."""

    authority: Path
    server: Path
    key: Path


class NodeKey(NamedTuple):
    """Files: a node's private key, which stays on the node, and its public key, which is registered."""

    private: Path
    public: Path


def make_certificates(folder: Path, names: Sequence[str], days: int = 30) -> Certificates:
    """Write `ca.crt`, `server.pem` and `server.key`.

    Args:
        folder: is made.
        names: host names and addresses that the server is reached by; clients refuse any other.
        days: until they expire.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, server_name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("fedmrn deployment CA", names[0])
    )
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _certificate(authority_name, authority_name, authority_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(authority_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    server = (
        _certificate(server_name, authority_name, server_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files = Certificates(folder / "ca.crt", folder / "server.pem", folder / "server.key")
    files.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    files.server.write_bytes(server.public_bytes(Encoding.PEM))
    _write_secret(files.key, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def make_node_key(folder: Path, name: str) -> NodeKey:
    """Write `NAME` and `NAME.pub`, as `ssh-keygen -t ecdsa -b 384` does."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    files = NodeKey(folder / name, folder / f"{name}.pub")
    _write_secret(files.private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    files.public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return files


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(**used: bool) -> x509.KeyUsage:
    uses = [
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ]
    return x509.KeyUsage(**{use: used.get(use, False) for use in uses})


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go; must not exist")
    parser.add_argument("--nodes", type=int, default=2, metavar="N", help="key pairs: node-0, node-1, ... (default 2)")
    parser.add_argument(
        "--name",
        action="append",
        metavar="HOST",
        help="a host name or address of the server; may be repeated (default: localhost and 127.0.0.1)",
    )
    parser.add_argument("--days", type=int, default=30, metavar="D", help="until the certificates expire (default 30)")
    args = parser.parse_args()
    if args.folder.exists():
        print(f"error: {args.folder} exists already; name another folder, or remove it", file=sys.stderr)
        return 2
    make_certificates(args.folder, args.name or ["localhost", "127.0.0.1"], args.days)
    for node in range(args.nodes):
        make_node_key(args.folder, f"node-{node}")
    print(f"{args.folder}: ca.crt, server.pem, server.key and {args.nodes} key pairs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
