"""The agent's log as JSON lines, from a real process."""

import json
import subprocess
from pathlib import Path

from broker_config import free_port
from controller.demo.processes import program
from schemas.log_lines import FIELDS

STOP_S = 20.0


def test_an_agent_told_to_writes_its_log_as_json(tmp_path: Path) -> None:
    broker = f"mqtt://127.0.0.1:{free_port()}"
    command = [program("flotilla-agent"), "run", "--id", "pi-1", "--root", str(tmp_path / "root"), "--broker", broker]
    with subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stderr is not None
            lines = [json.loads(agent.stderr.readline()) for _ in range(2)]
        finally:
            agent.terminate()
            agent.wait(STOP_S)
    for line in lines:
        assert {"at", "level", "action"} <= line.keys() <= FIELDS.keys()
        assert line["device"] == "pi-1"
    assert {line["action"] for line in lines} == {"trust", "ready"}
