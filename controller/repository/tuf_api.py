"""The parts of python-tuf and securesystemslib that the repository uses.

Both re-export their public names in a way that strict type checking does not count as such; hence the
ignores, here and nowhere else.
"""

from schemas.without_modules import CLOUD_CLIENTS, without_modules

with without_modules(*CLOUD_CLIENTS):
    from securesystemslib.signer import (  # type: ignore[attr-defined]  # public, see above
        CryptoSigner,
        SSlibKey,
    )
    from tuf.api.metadata import (  # type: ignore[attr-defined]  # public, see above
        DelegatedRole,
        Delegations,
        Metadata,
        MetaFile,
        Root,
        Snapshot,
        TargetFile,
        Targets,
        Timestamp,
    )
    from tuf.api.serialization.json import JSONSerializer

__all__ = [
    "CryptoSigner",
    "DelegatedRole",
    "Delegations",
    "JSONSerializer",
    "MetaFile",
    "Metadata",
    "Root",
    "SSlibKey",
    "Snapshot",
    "TargetFile",
    "Targets",
    "Timestamp",
]
