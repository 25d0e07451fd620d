"""Stage: build the release's tree beside the running one, complete and flushed, before anything changes."""

from pathlib import Path

from device_agent.contexts import Contexts
from device_agent.interruption import in_interruptible_thread
from device_agent.seams import SignedManifest, TemplateRenderer
from device_agent.store import ReleaseStore


class StageStep:
    """See the module."""

    def __init__(self, *, store: ReleaseStore, templates: TemplateRenderer, contexts: Contexts) -> None:
        self._store = store
        self._templates = templates
        self._contexts = contexts

    async def run(self, signed: SignedManifest) -> None:
        """Stage; leftovers of an interrupted staging are removed, and it starts over.

        Raises:
            DeviceError: `requires.setting`, `disk.full`, `disk.io`.
        """
        await in_interruptible_thread(self._stage, signed)

    def _stage(self, signed: SignedManifest) -> None:
        def render(folder: Path) -> None:
            if signed.manifest.templates:
                self._templates.render(signed.manifest, self._contexts.of_tree(signed.manifest, folder))

        self._store.stage(signed.manifest, signed.sha256, signed.plain, render)
