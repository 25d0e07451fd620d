"""What bare paho-mqtt clients need to move as many messages of the same sizes through the same broker.

As many clients as there are devices, in as many processes as the simulator has, each publishing its messages at
QoS 1 one after the other as paho sends them; one more process subscribes, counts, and does nothing with what comes.
Run as a program it is one of these processes.
"""

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_agent.simulator.fleet import allow_connections

ROOT = "bare"
BOUND_S = 600.0
AT_ONCE = 50
MOVES = 2
"""Only the last one counts."""


def measure(
    host: str, port: int, *, clients: int, sizes: Sequence[int], processes: int, pause_s: float
) -> tuple[float, float]:
    """Seconds from the word to go to the last message's arrival, and the subscriber's processor time for a message.

    Args:
        sizes: bytes of each message that every client publishes.
        pause_s: how long before that they have moved as many messages already.
    """
    base = {"host": host, "port": port}
    total = clients * len(sizes)
    with _child({**base, "expect": total}) as counter:
        _answer(counter)
        shares = [range(part, clients, processes) for part in range(processes)]
        speakers = [
            _child({**base, "first": share.start, "step": processes, "count": len(share), "sizes": list(sizes)})
            for share in shares
        ]
        for speaker in speakers:
            _answer(speaker)
        _move(counter, speakers)
        time.sleep(pause_s)
        seconds, cpu = _move(counter, speakers)
        for speaker in speakers:
            speaker.wait(BOUND_S)
    return seconds, cpu / total


def _move(counter: "subprocess.Popen[str]", speakers: Sequence["subprocess.Popen[str]"]) -> tuple[float, float]:
    """Have every client publish its messages; gives the seconds to the last arrival, and the subscriber's CPU."""
    began = time.monotonic()
    for speaker in speakers:
        _go(speaker)
    cpu = float(_answer(counter))
    seconds = time.monotonic() - began
    for speaker in speakers:
        _answer(speaker)
    return seconds, cpu


def _child(orders: dict[str, Any]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.fleet.bare", json.dumps(orders)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        line = child.stdout.readline() if selector.select(BOUND_S) else ""
    if not line:
        raise RuntimeError(f"a bare client ended early, or said nothing for {BOUND_S:.0f} s")
    return line


def _go(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def _client(name: str, orders: dict[str, Any]) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect(orders["host"], orders["port"], keepalive=600)
    return client


def _count(orders: dict[str, Any]) -> None:
    """Say when all are there, and what that took of the processor; as often as they are moved."""
    moves, left = MOVES, orders["expect"]
    began = 0.0
    client = _client("bare-counter", orders)

    def arrived(*_: object) -> None:
        nonlocal moves, left, began
        left -= 1
        if left == 0:
            print(time.process_time() - began, flush=True)
            moves, left, began = moves - 1, orders["expect"], time.process_time()
            if moves == 0:
                client.disconnect()

    client.on_message = arrived

    def greeted(*_: object) -> None:
        client.subscribe(f"{ROOT}/#", options=SubscribeOptions(qos=1))

    client.on_connect = greeted
    client.on_subscribe = lambda *_: print("ready", flush=True)
    began = time.process_time()
    client.loop_forever()


def _speak(orders: dict[str, Any]) -> None:
    allow_connections(orders["count"])
    payloads = [b"x" * size for size in orders["sizes"]]
    selector = selectors.DefaultSelector()
    clients = []
    give_up = time.monotonic() + BOUND_S
    for number in range(orders["count"]):
        client = _client(f"bare-{orders['first'] + number * orders['step']}", orders)
        client.on_publish = _noted
        client.on_connect = _greeted
        selector.register(client.socket(), selectors.EVENT_READ, client)  # type: ignore[arg-type]  # it is connected
        clients.append(client)
        # more at once than the broker's backlog holds would be cut off
        while len(_GREETED) < len(clients) - AT_ONCE and time.monotonic() < give_up:
            _turn(selector)
    while len(_GREETED) < len(clients) and time.monotonic() < give_up:
        _turn(selector)
    if len(_GREETED) < len(clients):
        raise RuntimeError(f"the broker has greeted {len(_GREETED)} of {len(clients)} bare clients")
    print("ready", flush=True)
    wanted = 0
    for _ in range(MOVES):
        sys.stdin.readline()
        for number, client in enumerate(clients):
            for payload in payloads:
                client.publish(f"{ROOT}/{orders['first'] + number * orders['step']}/events", payload, qos=1)
        wanted += len(clients) * len(payloads)
        give_up = time.monotonic() + BOUND_S
        while len(_CONFIRMED) < wanted and time.monotonic() < give_up:
            _turn(selector)
        print("done", flush=True)


_GREETED: list[None] = []
_CONFIRMED: list[int] = []


def _greeted(*_: object) -> None:
    _GREETED.append(None)


def _noted(_client: Client, _userdata: Any, mid: int, *_: object) -> None:
    _CONFIRMED.append(mid)


def _turn(selector: selectors.BaseSelector) -> int:
    ready = selector.select(1.0)
    for key, _ in ready:
        client: Client = key.data
        client.loop_read()
        if client.want_write():
            client.loop_write()
    return len(ready)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    (_count if "expect" in told else _speak)(told)
