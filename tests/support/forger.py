"""A publisher with good keys and bad intentions: signs manifests that no `flotilla push` would, and serves them.

forger = Forger(server, "/forged")
forger.offer("1.0.0", {"page": "hello"}, replace=(b'"page"', b'"../page"'))
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.repository.packing import pack
from schemas.layout import METADATA, object_path, target_name, target_path
from schemas.manifest import encode_manifest
from tests.support.repository import make_manifest
from tests.unit.agent_leaves.hostile_server import HostileServer
from tests.unit.agent_leaves.signed_repository import SignedRepository


class Forger:
    """A repository below `prefix` of a server, with one package.

    Attributes:
        url: its base URL.
        trusted_root: for the device that was talked into trusting it.
    """

    def __init__(self, server: HostileServer, prefix: str, package: str) -> None:
        self._server = server
        self._prefix = prefix
        self._package = package
        self._signed = SignedRepository(datetime.now(UTC))
        self.url = server.url + prefix
        self.trusted_root = self._signed.trusted

    def offer(
        self,
        version: str,
        files: Mapping[str, str],
        *,
        replace: tuple[bytes, bytes] = (b"", b""),
        valid: timedelta = timedelta(days=10),
        **manifest: Any,
    ) -> None:
        """Sign a release and serve it.

        Args:
            replace: what to put for what in the plain manifest, before it is signed.
            valid: for how long from now the timestamp is.
            manifest: further fields of the manifest.
        """
        plain = encode_manifest(make_manifest(self._package, version, files, **manifest))
        packed = pack(plain.replace(*replace))
        name = target_name(self._package, version, "any")
        self._signed.add(self._package, name, packed)
        self._signed.expires["timestamp"] = valid
        self._signed.publish()
        self._put(target_path(hashlib.sha256(packed).hexdigest(), name), packed)
        for text in files.values():
            self._put(object_path(hashlib.sha256(text.encode()).hexdigest()), pack(text.encode()))
        for metadata, content in self._signed.files.items():
            self._put(f"{METADATA}/{metadata}", content)

    def _put(self, path: str, content: bytes) -> None:
        self._server.files[f"{self._prefix}/{path}"] = content
