"""A bundle's signature (Ed25519, RFC 8032) and its encryption at rest (AES-256-GCM, NIST SP 800-38D).

Keys are environment variables of 64 hex digits (32 bytes), never files of a bundle and never in a recipe.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from serving.bundle.answer import BundleError

PUBLIC = "RAYDISTILL_BUNDLE_PUBLIC_KEY"  # whoever loads: bundles must be signed by its owner
PRIVATE = "RAYDISTILL_BUNDLE_SIGNING_KEY"  # whoever exports
SECRET = "RAYDISTILL_BUNDLE_KEY"  # encrypts and decrypts
KEY_BYTES, NONCE_BYTES = 32, 12


def public_key_of(environment: Mapping[str, str]) -> bytes | None:
    """The public key that bundles must be signed for; None: none asked for. Raises BundleError when it is no key."""
    return _key(environment, PUBLIC) if PUBLIC in environment else None


def signing_key_of(environment: Mapping[str, str]) -> bytes:
    """The private key to sign with. Raises BundleError when it is not set or no key."""
    return _key(environment, PRIVATE)


def key_of(environment: Mapping[str, str]) -> bytes:
    """The key that files are encrypted with. Raises BundleError when it is not set or no key."""
    return _key(environment, SECRET)


def _key(environment: Mapping[str, str], name: str) -> bytes:
    text = environment[name].strip() if name in environment else ""
    if not text:
        raise BundleError(f"{name}: not set; this bundle needs the key in that environment variable")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise BundleError(f"{name}: got {len(text)} characters, expected {2 * KEY_BYTES} hex digits")
    return key


def signature(description: bytes, private: bytes) -> bytes:
    """`bundle.sig`: who signed the bytes of `bundle.json`, and the signature; checked as a whole by a digest."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(private)
    says = {"public_key": key.public_key().public_bytes_raw().hex(), "signature": key.sign(description).hex()}
    return _written(says)


def verify(content: bytes, description: bytes, public: bytes | None) -> None:
    """Check `bundle.sig`: that it is whole, and with a public key that its owner signed `description`.

    Raises BundleError naming the field.
    """
    says = _read(content)
    if public is None:
        return
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise BundleError(f"bundle.sig: {PUBLIC} is set, and cryptography is not installed") from error
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(says["signature"]), description)
    except (InvalidSignature, ValueError) as error:
        signer = says["public_key"]
        what = "another key signed it" if signer != public.hex() else "bundle.json is not what was signed"
        raise BundleError(f"bundle.sig: signature: {what} (signed by {signer:.16}.., {PUBLIC} asks for "
                          f"{public.hex():.16}..)") from error  # fmt: skip


def signer(content: bytes) -> str:
    """Whose public key (hex) a `bundle.sig` names; `verify` says whether it is true. Raises BundleError."""
    return _read(content)["public_key"]


def _written(says: Mapping[str, str]) -> bytes:
    whole = hashlib.sha256(json.dumps(dict(says)).encode()).hexdigest()
    return json.dumps({**says, "digest": whole}, indent=1).encode()


def _read(content: bytes) -> dict[str, str]:
    try:
        says = json.loads(content.decode("ascii"))
        fields = {name: says[name] for name in ("public_key", "signature")}
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"bundle.sig: not a readable signature ({error})") from error
    if content != _written(fields):
        raise BundleError("bundle.sig: digest: not the one of its content")
    return fields


def closed(data: bytes, name: str, key: bytes) -> bytes:
    """Encrypt a file: nonce and ciphertext with its tag, bound to the file's name.

    The nonce is an HMAC of name and content, so it is never used for two contents, and the same file gives the same
    bytes again (an artifact made twice is one artifact).
    """
    nonce = hmac.new(key, name.encode() + b"\0" + data, hashlib.sha256).digest()[:NONCE_BYTES]
    coded: bytes = _cipher(key).encrypt(nonce, data, name.encode())
    return nonce + coded


def opened(data: bytes, name: str, key: bytes | None) -> bytes:
    """Decrypt a file. Raises BundleError for another key."""
    if key is None:
        raise BundleError(f"{name}: encrypted, and no key was given")
    cipher = _cipher(key)
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], name.encode())
    except (InvalidTag, ValueError) as error:
        raise BundleError(f"{name}: cannot be decrypted with the key in {SECRET}") from error
    return plain


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise BundleError("the bundle is encrypted, and cryptography is not installed") from error
    return AESGCM(key)
