"""Finds out over HTTP what a release is: signed metadata, the list of bundles that lead to it, and its manifest.

A device that has the manifest of another release of the package takes the difference where one is offered: hashes
do not compress, so a manifest often weighs more than what has changed. What comes out is believed for its signed
hash alone, and where it does not have that, the whole manifest is fetched.
"""

import hashlib
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from device_agent import offers
from device_agent.durability import write_file
from device_agent.fetcher import HttpFetcher, MemorySink
from device_agent.meter import Meter, get_metered
from device_agent.offers import ManifestOffer
from device_agent.seams import AtHand, SignedManifest
from device_agent.signed_manifest import candidate_names, check_packed, decode_plain, not_found
from device_agent.trust import SignedTarget, TrustStore
from device_agent.unpacking import unpack_manifest
from device_agent.zstd import pack
from schemas.bundles import MAX_BUNDLE_INDEX_BYTES
from schemas.errors import DeviceError, FlotillaError
from schemas.layout import MAX_MANIFEST_BYTES, METADATA, bundle_index_path, target_path

_KEPT: Final = 4
_SUFFIX: Final = ".manifest.zst"


class Resolver:
    """One question to the repositories. Used by one thread.

    Args:
        downloads: manifests that were fetched are kept there, so that a restart need not fetch them again.
        at_hand: see there.
    """

    def __init__(self, http: HttpFetcher, trust: TrustStore, downloads: Path, at_hand: AtHand) -> None:
        self._http = http
        self._trust = trust
        self._downloads = downloads
        self._at_hand = at_hand
        self._meter = Meter(at_hand.max_bytes, lambda count: at_hand.on_bytes(0, count))
        self._base = ""

    def resolve(self, package: str, version: str, platform: str) -> SignedManifest:
        """See `ReleaseSource`."""
        names = candidate_names(package, version, platform)

        def find(base: str) -> SignedTarget:
            target = self._trust.find(names, partial(self._read_metadata, base), base)
            if target is None:
                raise not_found(package, version, platform, base)
            self._base = base
            return target

        target = self._http.try_each(find)
        plain, index = self._plain_manifest(target, f"{package} {version}")
        return decode_plain(plain, target, package, version, wire_bytes=self._meter.spent, index=index)

    def _read_metadata(self, base: str, name: str, limit: int) -> bytes:
        return self._read(base, f"{METADATA}/{name}", limit)

    def _read(self, base: str, path: str, limit: int) -> bytes:
        sink = MemorySink()
        get_metered(self._http, base, path, sink, limit=limit, meter=self._meter)
        return bytes(sink.data)

    def _plain_manifest(self, target: SignedTarget, what: str) -> tuple[bytes, bytes]:
        """The manifest and the list of bundles, each in the cheapest way."""
        if target.plain_sha256 is None:
            # signed by a controller that knew of no differences yet
            plain = self._whole(target, what)
            sha256 = hashlib.sha256(plain).hexdigest()
            index = self._index(sha256)
            if index:
                self._keep(sha256, pack(plain))
            return plain, index
        plain_here = kept_manifest(self._downloads, target.plain_sha256)
        if plain_here is None and (plain_here := self._installed(target.plain_sha256)) is not None:
            self._keep(target.plain_sha256, pack(plain_here))
        index = self._index(target.plain_sha256)
        if plain_here is not None:
            return plain_here, index
        patched = self._patched(target, index)
        if patched is not None:
            self._keep(target.plain_sha256, pack(patched))
            return patched, index
        return self._whole(target, what), index

    def _index(self, sha256: str) -> bytes:
        """The list of bundles; empty where there is none or it cannot be had: a device can do without."""
        path = bundle_index_path(sha256)
        with suppress(FlotillaError):
            data = self._read(self._base, path, MAX_BUNDLE_INDEX_BYTES)
            if offers.read_index(data, sha256) is not None:
                return data
        return b""

    def _patched(self, target: SignedTarget, index: bytes) -> bytes | None:
        """The manifest made from one that is here; None where that cannot be, or would cost as much as the whole."""
        if target.plain_sha256 is None or target.plain_length is None:
            return None
        offered = offers.manifest_patches(index, target.plain_sha256)
        fitting = [offer for offer in offered if offer.size < target.length]
        for path in self._at_hand.manifests if fitting else ():
            old = _read_limited(path)
            sha256 = hashlib.sha256(old).hexdigest()
            offer = next((one for one in fitting if one.start == sha256), None)
            if offer is not None:
                return self._try_patch(offer, old, target)
        return None

    def _try_patch(self, offer: ManifestOffer, old: bytes, target: SignedTarget) -> bytes | None:
        try:
            return self._http.try_each(partial(self._apply, offer, old, target))
        except (FlotillaError, ArithmeticError, LookupError, MemoryError, ValueError, struct.error):
            # whatever is wrong with it, the whole manifest can be had
            return None

    def _apply(self, offer: ManifestOffer, old: bytes, target: SignedTarget, base: str) -> bytes:
        from device_agent.bundles import apply_manifest_patch  # noqa: PLC0415  # most updates need it, a check does not

        patch = self._read(base, offer.path, offer.size)
        if target.plain_sha256 is None or target.plain_length is None:
            raise DeviceError("verify.digest", f"{target.name}: its plain manifest is not signed")
        plain: bytes = apply_manifest_patch(old, patch, size=target.plain_length, sha256=target.plain_sha256)
        if hashlib.sha256(plain).hexdigest() != target.plain_sha256:
            raise DeviceError("verify.digest", f"{base}: what {offer.path} leads to is not what was signed")
        return plain

    def _whole(self, target: SignedTarget, what: str) -> bytes:
        def get(base: str) -> bytes:
            self._meter.check(target.length, f"the manifest of {what}")
            packed = self._read(base, target_path(target.sha256, target.name), target.length)
            check_packed(packed, target, base)
            return packed

        packed = _kept_packed(self._downloads / (target.sha256 + _SUFFIX), target)
        if packed is None:
            packed = self._http.try_each(get)
            self._keep(target.plain_sha256 or target.sha256, packed)
        return unpack_manifest(packed, what)

    def _installed(self, sha256: str) -> bytes | None:
        """The release may be one that is here: somebody goes back to it, or has never left it."""
        for path in self._at_hand.manifests:
            # a folder's name has the first digits of the hash
            if sha256[:8] in path.name:
                plain = _read_limited(path)
                if hashlib.sha256(plain).hexdigest() == sha256:
                    return plain
        return None

    def _keep(self, sha256: str, packed: bytes) -> None:
        """A disk that refuses shows soon enough elsewhere."""
        with suppress(OSError):
            self._downloads.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self._downloads / (sha256 + _SUFFIX), packed, 0o600)
            others = sorted(self._downloads.glob("*" + _SUFFIX), key=lambda p: p.stat().st_mtime)
            for old in others[:-_KEPT]:
                old.unlink(missing_ok=True)


def kept_manifest(downloads: Path, sha256: str) -> bytes | None:
    """The plain manifest with this hash, where a `Resolver` has kept it."""
    try:
        packed = (downloads / (sha256 + _SUFFIX)).read_bytes()
        plain = unpack_manifest(packed, "a kept manifest")
    except (OSError, FlotillaError):
        return None
    return plain if hashlib.sha256(plain).hexdigest() == sha256 else None


def _kept_packed(path: Path, target: SignedTarget) -> bytes | None:
    try:
        with path.open("rb") as file:
            packed = file.read(target.length + 1)
        check_packed(packed, target, "kept manifest")
    except (OSError, DeviceError):
        return None
    return packed


def _read_limited(path: Path) -> bytes:
    """A manifest's file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError:
        return b""
    return data if len(data) <= MAX_MANIFEST_BYTES else b""
