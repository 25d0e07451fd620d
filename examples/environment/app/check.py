"""Loads compiled and plain packages from this release, and no other, and uses one of each."""

import sys
from pathlib import Path

SITE = Path(__file__).resolve().parent / "site"
sys.path.insert(0, str(SITE))

import msgspec  # noqa: E402  # the path comes first
import semver  # noqa: E402
from cryptography.hazmat.primitives import hashes  # noqa: E402


def main() -> None:
    """Exit with 0 only if everything is this release's and works."""
    for module in (msgspec, semver, sys.modules["cryptography"]):
        if not Path(str(module.__file__)).resolve().is_relative_to(SITE):
            sys.exit(f"{module.__name__} was loaded from {module.__file__}")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(msgspec.json.encode({"version": str(semver.Version.parse("1.2.3"))}))
    print(f"msgspec {msgspec.__version__} and {len(digest.finalize())} bytes of sha256")


if __name__ == "__main__":
    main()
