"""A simulated fleet runs in few processes, which share its devices."""

import argparse
import os

import pytest

from device_agent.cli.simulate import DEVICES_A_PROCESS, parts_of
from device_agent.cli.simulate_options import add_simulate_options
from device_agent.simulator.worker import Orders, own


def parts(*given: str) -> list[Orders]:
    parser = argparse.ArgumentParser()
    add_simulate_options(parser)
    return parts_of(parser.parse_args(["--broker", "mqtt://127.0.0.1", *given]))


@pytest.mark.parametrize(
    ("devices", "cores", "processes"),
    [
        (5, 2, 1),
        (DEVICES_A_PROCESS, 2, 1),
        (DEVICES_A_PROCESS + 1, 2, 2),
        (10_000, 1, 1),
        (100_000, 2, 2),
        (100_000, 64, 20),
    ],
)
def test_there_are_as_few_processes_as_the_fleet_needs_and_no_more_than_cores(
    monkeypatch: pytest.MonkeyPatch, devices: int, cores: int, processes: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert [one.part for one in parts("--devices", str(devices))] == list(range(processes))


def test_the_processes_share_the_devices_and_their_pace() -> None:
    told = parts("--devices", "25", "--processes", "3", "--connect-rate", "90", "--duplicated", "20%")
    assert [(one.part, one.parts, one.per_s) for one in told] == [(0, 3, 30), (1, 3, 30), (2, 3, 30)]
    numbers = sorted(member.number for one in told for member in own(one) if not member.twin)
    assert numbers == list(range(25))
    assert sum(member.twin for one in told for member in own(one)) == 5
    (whole,) = parts("--devices", "25", "--processes", "1", "--duplicated", "20%")
    assert sorted(own(whole), key=str) == sorted((member for one in told for member in own(one)), key=str)


def test_there_are_no_more_processes_than_devices() -> None:
    assert len(parts("--devices", "2", "--processes", "8")) == 2
