"""Two releases of one package at once: the channel and what is announced never come apart."""

import threading
from pathlib import Path

from controller.http.releasing import Releasing
from controller.http.views import ReleaseWish
from controller.rollouts.views import Rollout
from controller.settings import ControllerSettings, HttpAddress

SETTINGS = ControllerSettings(data=Path("unused"), http=HttpAddress(host="127.0.0.1", port=1), broker=None)


class Recorder:
    """Stands for the repository and the fleet; holds the first release open until the second has begun or waits."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.second_asked = threading.Event()
        self.steering = self

    def channel_of(self, _package: str, _channel: str) -> str | None:
        return None

    def set_channel(self, _package: str, version: str, _channel: str) -> None:
        self.said.append(f"channel {version}")
        if version == "1.0.0":
            self.second_asked.wait(10)

    def create_release(self, *, version: str, **_: object) -> Rollout | None:
        self.said.append(f"announced {version}")
        return None


def test_one_release_is_announced_before_the_next_one_touches_the_channel() -> None:
    recorder = Recorder()
    releasing = Releasing(recorder, recorder, SETTINGS)  # type: ignore[arg-type]  # what it needs of both

    def announce(version: str) -> None:
        releasing.start(ReleaseWish(package="tacho", version=version, channel="stable"))

    first = threading.Thread(target=announce, args=("1.0.0",))
    second = threading.Thread(target=announce, args=("1.1.0",))
    first.start()
    while not recorder.said:
        first.join(0.01)
    second.start()
    # long enough for the second to run into the channel if nothing kept it from doing so
    second.join(0.3)
    recorder.second_asked.set()
    first.join(10)
    second.join(10)
    assert recorder.said == ["channel 1.0.0", "announced 1.0.0", "channel 1.1.0", "announced 1.1.0"]
