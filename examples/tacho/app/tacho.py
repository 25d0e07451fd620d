"""A rev counter: a gauge page, its value as JSON, and a health address. Standard library only."""

import json
import math
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = json.loads((HERE / "settings.json").read_text())
DIAL = json.loads((HERE / "dial.json").read_text())
STARTS = HERE / "data" / "starts"
SWEEP_DEGREES = 240


def revolutions() -> float:
    """A made-up engine: idles, revs up, and falls back, every 20 seconds."""
    return 800 + 5200 * (0.5 - 0.5 * math.cos(time.time() * math.tau / 20)) ** 2


def needle(rpm: float) -> float:
    """The needle's angle in degrees from the left end of the dial."""
    return SWEEP_DEGREES * min(rpm / DIAL["full_scale"], 1)


def reading() -> dict[str, object]:
    """What the page shows."""
    rpm = revolutions()
    return {"rpm": round(rpm), "degrees": round(needle(rpm), 1), **DIAL, **SETTINGS}


class Tacho(BaseHTTPRequestHandler):
    """Answers `/`, `/reading` and `/health`."""

    timeout = 10

    def do_GET(self) -> None:
        """Serve one of the three addresses."""
        try:
            status, kind, body = self._answer()
        except ArithmeticError as error:
            status, kind, body = 500, "text/plain", f"cannot place the needle: {error}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[int, str, bytes]:
        match self.path:
            case "/":
                return 200, "text/html; charset=utf-8", (HERE / "gauge.html").read_bytes()
            case "/reading":
                return 200, "application/json", json.dumps(reading()).encode()
            case "/health":
                reading()
                return 200, "text/plain", f"{SETTINGS['version']} is well\n".encode()
        return 404, "text/plain", b"no such page\n"

    def log_request(self, code: int | str = "-", *_: object) -> None:
        """Only failures are worth a line."""
        if not str(code).startswith("2"):
            print(f"{self.path} answered {code}", flush=True)


def main() -> None:
    """Count this start (state survives updates), then serve for ever."""
    starts = int(STARTS.read_text()) + 1 if STARTS.exists() else 1
    STARTS.write_text(f"{starts}\n")
    server = ThreadingHTTPServer(("127.0.0.1", int(SETTINGS["port"])), Tacho)
    print(f"tacho {SETTINGS['version']} on port {SETTINGS['port']}, start number {starts}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
