"""Mosquitto in a container, through testcontainers. Imported only where it is used: its libraries load slowly."""

import functools
import time
from pathlib import Path

import docker  # type: ignore[import-untyped]  # it ships no types
import docker.errors  # type: ignore[import-untyped]
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from broker_config import answers, free_port, render
from tests.support.certificates import TlsFiles

IMAGE = "eclipse-mosquitto:2"
_MOUNT = Path("/flotilla")
_START_S = 30.0


class ContainerBroker:
    """Mosquitto in a container; with the engine's bridge where there is one, else on the host's network."""

    host = "127.0.0.1"

    def __init__(
        self, folder: Path, *, name: str = "development.conf", tls: TlsFiles | None = None, certificates: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._scheme = "mqtts" if tls else "mqtt"
        self._probe = tls.probe() if tls else None
        self.port = free_port()
        self.certificate_port = free_port() if certificates else None
        bridged = bool(_engine().networks.list(names=["bridge"]))
        options = tls.options(mounted_at=_MOUNT) if tls else {}
        if self.certificate_port is not None:
            options["certificate_port"] = self.certificate_port
        config = render(
            name,
            port=self.port,
            host="0.0.0.0" if bridged else self.host,
            data_dir=Path("/mosquitto/data"),
            user="root",
            **options,
        )
        mounted = tls.folder if tls else folder
        (mounted / "mosquitto.conf").write_text(config, encoding="utf-8")
        if not _has_image(testcontainers_config.ryuk_image):
            # Its helper that cleans up after a killed test run can't be fetched everywhere.
            testcontainers_config.ryuk_disabled = True
        self._container = (
            DockerContainer(IMAGE)
            .with_command(["/usr/sbin/mosquitto", "-c", str(_MOUNT / "mosquitto.conf")])
            .with_volume_mapping(str(mounted), str(_MOUNT), "ro")
        )
        if bridged:
            for port in filter(None, (self.port, self.certificate_port)):
                # The engine takes an address with the port; testcontainers' own method would open it to all.
                self._container.ports[f"{port}/tcp"] = (self.host, port)  # type: ignore[assignment]
        else:
            self._container.with_kwargs(network_mode="host")
        self._created = False

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    def start(self) -> None:
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        deadline = time.monotonic() + _START_S
        while not answers(self.host, self.port, tls=self._probe):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Mosquitto's container doesn't answer: {self.log_text()[-2000:]}")
            container = self._container.get_wrapped_container()
            container.reload()
            if container.status == "exited":
                container.start()  # somebody else had its port for a moment
            time.sleep(0.05)

    def stop(self) -> None:
        if self._created:
            self._container.get_wrapped_container().stop(timeout=5)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill("SIGKILL")
        self._container.get_wrapped_container().wait(timeout=10)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Nothing of it stays behind."""
        if self._created:
            self._container.stop()

    def log_text(self) -> str:
        out, err = self._container.get_logs()
        return (out + err).decode("utf-8", "replace")


def engine_trouble() -> Exception | None:
    """None when an engine answers that has the image or can fetch it; else why not."""
    try:
        _engine().ping()
        if not _has_image(IMAGE):
            _engine().images.pull(IMAGE)
    except (docker.errors.DockerException, OSError) as error:
        return error
    return None


@functools.cache
def _engine() -> docker.DockerClient:
    return docker.from_env(timeout=60)


def _has_image(name: str) -> bool:
    try:
        _engine().images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True
