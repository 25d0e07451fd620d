"""Makes bundles and manifest differences. Synchronous and heavy: call it in a worker process."""

from controller.bundles.maker import MadeBundle, MadeGroup, make_bundle
from controller.bundles.manifests import make_manifest_patch

__all__ = ["MadeBundle", "MadeGroup", "make_bundle", "make_manifest_patch"]
