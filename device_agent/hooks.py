"""Runs a package's hooks: in the release's folder, within a time limit, with the last of their output kept."""

from collections.abc import Mapping

from device_agent.processes import base_environment, describe_exit, resolve_command, run
from device_agent.seams import HookResult, ReleaseContext
from schemas.errors import DeviceError, one_line
from schemas.manifest import Hook


class ProcessHookRunner:
    """The `HookRunner` that starts real programs.

    Args:
        environment: what hooks get besides the release's own variables; default `base_environment()`.
        grace_s: time between SIGTERM and SIGKILL for a hook whose time has run out.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None, grace_s: float = 5.0) -> None:
        self._environment = dict(base_environment() if environment is None else environment)
        self._grace_s = grace_s

    async def run(self, name: str, hook: Hook, context: ReleaseContext) -> HookResult:
        """Run `hook`; `name` is the manifest's word for it, e.g. `pre_switch`.

        Raises:
            DeviceError: `hook.failed` or `hook.timeout`.
        """
        where = f"hook {name} of {context.package} {context.version}"
        environment = {**self._environment, **context.environment}
        command = resolve_command(
            hook.command,
            folder=context.folder,
            state_folder=context.state_folder,
            path=environment.get("PATH", ""),
            code="hook.failed",
            where=where,
        )
        try:
            finished = await run(
                command,
                folder=context.folder,
                environment=environment,
                timeout_s=hook.timeout_s,
                grace_s=self._grace_s,
            )
        except (OSError, ValueError) as error:
            raise DeviceError("hook.failed", f"{where} cannot be started: {one_line(error)}") from error
        if finished.code is None:
            raise DeviceError(
                "hook.timeout", f"{where} took longer than {hook.timeout_s:g} s", log_tail=finished.output
            )
        if finished.code != 0:
            raise DeviceError("hook.failed", f"{where} {describe_exit(finished.code)}", log_tail=finished.output)
        return HookResult(seconds=finished.seconds, output=finished.output)
