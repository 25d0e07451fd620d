"""What must hold of a device and of the controller's memory of it whenever all is quiet, whatever happened before."""

from functools import partial
from pathlib import Path

from schemas.messages import LAST_WORDS
from tests.support.gauge import NAME, running_version
from tests.support.world import World, source_tree

PROC = Path("/proc")


def assert_runs(world: World, device: str, source: Path, version: str, port: int, *, package: str = NAME) -> None:
    """The device has exactly the files of `source`, runs them once, and the controller knows."""
    assert_on_disk(world, device, source, version, package=package)
    world.wait(lambda: running_version(port) == version, f"{version} of {device} to answer")
    if PROC.is_dir():
        assert len(service_processes(world.root(device) / "packages" / package)) == 1
    world.wait(lambda: reported_version(world, device, package) == version, f"{device} to report {version}")


def reported_version(world: World, device: str, package: str = NAME) -> str | None:
    """The version in the device's last report, as the controller has it; none until a report names the package."""
    state = world.device(device).packages.get(package)
    return state and state.version


def assert_on_disk(world: World, device: str, source: Path, version: str, *, package: str = NAME) -> None:
    """The device has exactly the files of `source`, journaled as installed, and nothing half done beside them."""
    assert world.current_tree(device, package) == source_tree(source)
    journal = world.journal(device)
    assert journal.installs[package].current.version == version
    assert all(update.phase in LAST_WORDS for update in journal.updates)
    folder = world.root(device) / "packages" / package
    install = journal.installs[package]
    kept = {install.current.version, *([install.previous.version] if install.previous else [])}
    world.wait(
        lambda: {path.name.partition("+")[0] for path in (folder / "releases").iterdir()} == kept,
        f"{device} to keep {sorted(kept)} and nothing else",
    )
    assert not (folder / "staging").exists() or not list((folder / "staging").iterdir())


def assert_nothing_lost(world: World, *devices: str) -> None:
    """Every event of a device is in the controller's database exactly once, and each update has one last word."""
    for device in devices:
        world.wait(partial(_all_told, world, device), f"the controller to have all of {device}")
        journal = world.journal(device)
        rows = world.database_rows(device)
        assert sorted(seq for seq, _ in rows) == list(range(1, journal.last_seq + 1))
        assert all(event.seq == seq and event.device == device for seq, event in rows)
        events = sorted((event for _, event in rows), key=lambda event: event.seq)
        assert {event.update for event in events} == {update.id for update in journal.updates}
        for update in journal.updates:
            said = [event for event in events if event.update == update.id]
            assert [event.phase for event in said if event.phase in LAST_WORDS] == [update.phase]
            assert said[-1].phase is update.phase


def service_processes(package: Path) -> list[int]:
    """Processes whose working folder lies in a package's folder: its services, by their process ids (Linux)."""
    found = []
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdigit():
            try:
                folder = (entry / "cwd").readlink()
            except OSError:
                continue  # it has gone, or is a zombie
            if folder.is_relative_to(package.resolve()):
                found.append(int(entry.name))
    return found


def _all_told(world: World, device: str) -> bool:
    journal = world.journal(device)
    ended = all(update.phase in LAST_WORDS for update in journal.updates)
    return ended and not journal.unsent and len(world.database_rows(device)) >= journal.last_seq
