"""Applies bundles: the stream in, checked contents out. Imported only in the fetching process."""

from device_agent.bundles.manifests import apply_manifest_patch
from device_agent.bundles.reader import BundleReader

__all__ = ["BundleReader", "apply_manifest_patch"]
