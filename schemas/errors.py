"""Every error of Flotilla, grouped by who is to blame, and every code that an event may carry.

An exception says one line that a person can act on: what is wrong, where, and what to do. Its code is
stable: dashboards and rollouts group by it. Foreign errors are translated once, where they come in.
"""

from typing import Final

CODES: Final[dict[str, str]] = {
    # publisher: what is wrong lies in the package
    "package.source": "the source folder or its flotilla.toml cannot be built into a package",
    "package.format": "the file is not a whole Flotilla package",
    "package.limit": "the package exceeds a limit of the format",
    "package.path": "a member, link or state path leads outside the release",
    "version.bad": "the text is not a SemVer 2.0.0 version",
    "version.range": "the text is not a version range",
    "release.exists": "the same version exists with other content",
    "release.unknown": "no such package, version or platform",
    "release.in_use": "a channel or an active rollout still needs the release",
    "release.yanked": "the release was withdrawn from being chosen",
    "manifest.bad": "the manifest breaks a rule of its format",
    # contract: what is wrong lies in a message
    "message.json": "the payload is not a JSON object of the message's form",
    "message.schema": "the message's schema is newer than this reader",
    "message.size": "the payload is over the limit",
    "message.topic": "the topic is not one of the contract",
    # trust
    "trust.unsigned": "no valid signature vouches for the release",
    "trust.expired": "the signed metadata has expired",
    "trust.rollback": "the metadata is older than what this device has already seen",
    "trust.root": "the trusted root is missing or does not fit",
    "trust.keys": "a signing key that this needs is not there",
    "trust.metadata": "the signed metadata is not well formed",
    # network
    "fetch.not_found": "the repository does not have what the metadata names",
    "fetch.refused": "the repository answered with an error",
    "fetch.timeout": "the repository did not answer in time",
    "fetch.unreachable": "no repository could be reached",
    "fetch.limit": "the repository sent more than was announced, or more than the device may fetch",
    "fetch.metered": "the update would take more bytes than the device's owner allows",
    "broker.unreachable": "the broker cannot be reached",
    "broker.refused": "the broker refused the connection",
    "broker.denied": "the broker's access rules refuse a topic to this client",
    "broker.lost": "the connection to the broker broke",
    "broker.protocol": "the broker does not speak MQTT 5",
    "broker.settings": "the broker's address or credentials cannot be used",
    "broker.taken_over": "another client with the same id took the connection over",
    "broker.timeout": "the broker did not answer in time",
    "broker.tls": "the broker's certificate is not trusted",
    "broker.duplicate": "another client uses the same id",
    "api.unreachable": "the controller cannot be reached",
    "api.refused": "the controller refused the request",
    # device
    "verify.digest": "content does not have the hash that the signed manifest names",
    "verify.size": "content does not have the size that the signed manifest names",
    "verify.bundle": "a bundle or a manifest difference is damaged or is for other releases",
    "verify.deflate": "this device (its zlib or gzip) deflates in another way than the bundle counts on",
    "disk.full": "there is not enough free space",
    "disk.io": "the disk reported an error",
    "requires.agent": "the release needs another agent version",
    "requires.packages": "the release needs another package that is not installed in a fitting version",
    "requires.conflict": "no set of versions satisfies all requirements",
    "requires.upgrade_from": "the release cannot be installed over the installed version",
    "requires.hardware": "the release is not for this hardware",
    "requires.platform": "the release is not for this platform",
    "requires.downgrade": "the release is older than the installed one and downgrades are not allowed",
    "requires.launcher": "the agent was not started by its launcher, so its own package cannot be updated",
    "requires.setting": "the device lacks a setting that the release needs",
    "conflict.local_changes": "installed files were changed on the device",
    "conflict.install_path": "the install path is taken by something else",
    "conflict.superseded": "a newer announcement took this one's place",
    "conflict.cancelled": "cancelled on request",
    "conflict.halted": "the rollout was halted, for all or for this device",
    "conflict.reverted": "the rollout was reverted",
    "conflict.deadline": "the time in which the update had to start was over",
    "conflict.set": "another release of the set it was announced with could not be taken",
    "conflict.failed_before": "exactly this release has failed on the device before; `retry` lets it be tried again",
    "conflict.busy": "another process works on this root folder",
    "hook.failed": "a hook ended with an error",
    "hook.timeout": "a hook took longer than its limit",
    "service.start": "a service could not be started",
    "service.crashed": "a service keeps ending",
    "service.unit": "systemd refused the unit",
    "service.agent": "the agent's new release did not work, and the launcher brought the old one back",
    "health.command": "the health command reported a failure",
    "health.http": "the health address did not answer as expected",
    "health.tcp": "the health port did not accept a connection",
    "health.systemd": "the unit is not active",
    "health.device": "the device itself is not fit: heat, voltage, memory, disk or clock are over a limit of its owner",
    "health.broker": "the broker could not be reached any more after the switch",
    "health.rollback": "the release that was gone back to is not healthy either",
    "interrupted.restarts": "the update was interrupted too often",
    "interrupted.fetch": "the process that fetches was ended by the system, e.g. for lack of memory",
    "interrupted.journal": "the journal holds a phase that this agent does not know",
    "internal.error": "a defect in the agent",
    # operator
    "config.bad": "the configuration is wrong",
    "config.missing": "the configuration lacks something",
    "input.bad": "an argument is wrong",
    "data.bad": "the data folder cannot be used",
    "storage.unreachable": "where the repository is kept cannot be reached, or refuses",
    "storage.conflict": "somebody else has written to where the repository is kept",
    "rollout.unknown": "no such rollout",
    "rollout.ambiguous": "several rollouts have ids that begin like this",
    "rollout.state": "the rollout is in a state that does not allow this",
    "device.unknown": "no such device",
    "device.online": "the device is there, and this is for one that is gone",
    "demo.differed": "the demo did not go as its story says",
    "notify.failed": "a notification could not be delivered",
    "auth.refused": "the token, the session or the password is missing, wrong or over",
    "auth.denied": "the role of whoever asks is not enough for this",
    "auth.limit": "too many failed logins; try again later",
    "watch.limit": "as many watch as the controller lets watch at once",
    "export.limit": "as many files are made and sent as the controller makes and sends at once",
    "account.unknown": "no such account or token",
    "account.exists": "an account or token of this name exists",
    "request.key": "the Idempotency-Key was used for another request",
    "request.running": "the request that first had this Idempotency-Key is still under way",
}
"""Code to meaning, for ever: a code may be added, never renamed. `docs/contract/errors.md` is made from it."""


class FlotillaError(Exception):
    """Base of every error that Flotilla raises on purpose.

    Attributes:
        code: one of `CODES`.
        message: one line for a person.
        log_tail: output worth keeping (the last lines of a hook or service), or an empty string.
    """

    def __init__(self, code: str, message: str, *, log_tail: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"unlisted error code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.log_tail = log_tail

    def __str__(self) -> str:
        return self.message


class PublisherError(FlotillaError):
    """The package, its source or its version is at fault."""


class ContractError(FlotillaError):
    """A message on the broker breaks the wire contract."""


class TrustError(FlotillaError):
    """Signed metadata does not vouch for what was asked for."""


class NetworkError(FlotillaError):
    """The broker, the repository or the controller cannot be reached or misbehaves."""


class DeviceError(FlotillaError):
    """The device cannot do it: disk, requirements, local changes, services, health."""


class OperatorError(FlotillaError):
    """A command, a configuration or an argument is at fault."""


def one_line(text: object, limit: int = 300) -> str:
    """Fold any text into one printable line of at most `limit` characters, for logs and messages."""
    folded = " ".join(str(text).split())
    clean = "".join(c if c.isprintable() else "?" for c in folded)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
