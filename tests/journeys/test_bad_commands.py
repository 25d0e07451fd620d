"""What is wrong with what a device's owner says: arguments, agent.toml, the root folder, a file to install."""

import io
import itertools
import re
import tarfile
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker_config import free_port
from device_agent.journal import Journal
from schemas.manifest import Health
from tests.support.by_hand import Said, everything_in, run
from tests.support.repository import add_release, make_package, make_repository, tree_of

pytestmark = pytest.mark.journey

QUICK = Health(probation_s=0, start_period_s=0)
NOBODY = "--broker=mqtt://127.0.0.1:1"


def flotilla_agent(*arguments: object, folder: Path) -> Said:
    return run("flotilla-agent", *arguments, folder=folder)


# Arguments

USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "no command": ((), "the following arguments are required: COMMAND (see flotilla-agent --help)"),
    "no such flag": (("run", "--nope"), "unrecognized arguments: --nope (see flotilla-agent run --help)"),
    "no file": (("install",), "the following arguments are required: FILE (see flotilla-agent install --help)"),
    "no package": (("rollback",), "the following arguments are required: NAME (see flotilla-agent rollback --help)"),
    "a flag without its value": (
        ("status", "--root"),
        "argument --root: expected one argument (see flotilla-agent status --help)",
    ),
    "a file that is not there": (("install", "x.flotilla", "--id=a"), "{here}/x.flotilla: no such file"),
    "a file in nobody's home": (
        ("install", "~nobody-here/x", "--id=a"),
        "FILE: '~nobody-here/x' names nobody's home folder",
    ),
    "what is no package's name": (("rollback", "No Name", "--id=a"), "'No Name' is not a package name"),
}


@pytest.mark.parametrize("wrong", USAGE)
def test_wrong_usage(tmp_path: Path, wrong: str) -> None:
    arguments, line = USAGE[wrong]
    assert flotilla_agent(*arguments, folder=tmp_path).refusal(2) == line.format(here=tmp_path)
    assert not everything_in(tmp_path)


FLAGS: dict[str, tuple[int, str]] = {
    "--id=X Y": (1, "--id: must be a name: a-z, 0-9 and '-', first a letter or digit, at most 63"),
    "--channel=No": (1, "--channel: must be a short name: a-z, 0-9 and '-', first a letter or digit, at most 32"),
    "--broker=nope": (1, "--broker: broker address 'nope': write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS"),
    "--tag=site": (2, "--tag site: write KEY=VALUE"),
    "--root=": (2, "--root: Expected the path of a file or folder"),
    "--trusted-root=~nobody-here/x": (2, "--trusted-root: '~nobody-here/x' names nobody's home folder"),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_cannot_be_used(tmp_path: Path, flag: str) -> None:
    status, line = FLAGS[flag]
    said = flotilla_agent("run", "--id=a", f"--root={tmp_path / 'device'}", NOBODY, flag, folder=tmp_path)
    assert said.refusal(status) == line
    assert not everything_in(tmp_path)


# agent.toml

CONFIGURATIONS: dict[str, tuple[bytes, str]] = {
    "an unknown key": (b'chanel = "x"', "chanel: no such key; did you mean `channel`?"),
    "a key of the wrong type": (b"id = 7", "id: must be text, not a whole number"),
    "a word that is not among the choices": (
        b'[policy]\nlocal_changes = "maybe"',
        "policy.local_changes: Invalid enum value 'maybe'",
    ),
    "a path that is none": (b'root = ""', "root: Expected the path of a file or folder"),
    "half a certificate": (b'[broker_auth]\ncert = "c"', "broker_auth.cert: cert and key go together"),
    "no packages": (b"packages = []", 'packages: is empty; name packages, or write ["*"] for all'),
    "no TOML": (b"id = ", "is not TOML: Invalid value (at end of document)"),
    "no text": (b"\xff\xfe", "is not TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
}


@pytest.mark.parametrize("wrong", CONFIGURATIONS)
def test_a_broken_agent_toml(tmp_path: Path, wrong: str) -> None:
    content, problem = CONFIGURATIONS[wrong]
    config = tmp_path / "agent.toml"
    config.write_bytes(content)
    before = everything_in(tmp_path)
    line = f"{config}: {problem}"
    assert flotilla_agent("run", "--config", config, NOBODY, folder=tmp_path).refusal() == line
    checked = flotilla_agent("check", "--config", config, folder=tmp_path)
    assert (checked.status, checked.out, checked.err) == (1, f"BAD configuration: {line}\n", "")
    assert everything_in(tmp_path) == before


def test_every_command_says_the_same_of_a_broken_agent_toml(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('chanel = "x"')
    (tmp_path / "file").touch()
    for command in (("status",), ("install", "file"), ("rollback", "tacho")):
        said = flotilla_agent(*command, "--config", config, folder=tmp_path)
        assert said.refusal() == f"{config}: chanel: no such key; did you mean `channel`?"
    missing = flotilla_agent("run", "--config", "other.toml", folder=tmp_path)
    assert missing.refusal() == "other.toml: no such file; `flotilla-agent install-service` writes one"


# The root folder


def test_a_folder_in_which_no_agent_has_run(tmp_path: Path) -> None:
    """A misspelt folder is not made."""
    for command in (("status",), ("rollback", "tacho")):
        said = flotilla_agent(*command, "--id=a", "--root=devcie", folder=tmp_path)
        assert said.refusal() == f"{tmp_path}/devcie holds no agent.db: no agent has ever run there"
    assert not everything_in(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("a file")
    for command in ("run", "status"):
        line = flotilla_agent(command, "--id=a", "--root=device", NOBODY, folder=tmp_path).refusal()
        assert "device" in line
    assert (tmp_path / "device").read_text() == "a file"


def test_a_database_that_is_none(tmp_path: Path) -> None:
    database = tmp_path / "device" / "agent.db"
    database.parent.mkdir()
    database.write_bytes(b"not a database" * 100)
    for command in (("status",), ("rollback", "tacho")):  # `run` puts it aside and goes on with what is installed
        said = flotilla_agent(*command, "--id=a", "--root=device", folder=tmp_path)
        assert said.refusal() == f"{tmp_path}/device/agent.db is damaged: file is not a database"
    assert database.read_bytes() == b"not a database" * 100


def test_check_says_all_that_is_wrong_one_line_each(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "root.json").write_text("{}")
    flags = (f"--repository=http://127.0.0.1:{port}/repo", "--trusted-root=root.json", "--root=device", "--id=a")
    said = flotilla_agent("check", NOBODY, *flags, folder=tmp_path)
    assert (said.status, said.err) == (1, "")
    lines = said.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "ok  configuration", "BAD broker", "BAD repository", "BAD trusted root", "ok  disk", "ok  clock",
    ]  # fmt: skip
    assert "Connection refused" in lines[1]
    assert lines[3].startswith(f"BAD trusted root: {tmp_path}/root.json: the trusted root file is not a signed root (")
    assert [path.name for path in tmp_path.iterdir()] == ["root.json"]


# A file to install


class Shelf:
    """A repository whose releases come to the one device here as exported files."""

    def __init__(self, folder: Path, *, now: datetime | None = None) -> None:
        self.folder = folder
        self.root = folder / "device"
        self.now = now
        self.repository = make_repository(folder / "data", clock=lambda: self.now or datetime.now(UTC))
        self._numbers = itertools.count()
        (folder / "root.json").write_bytes(self.repository.trusted_root())
        self.options = ["--id=a", f"--root={self.root}", f"--trusted-root={folder / 'root.json'}"]

    def export(self) -> Path:
        """The next release."""
        number = next(self._numbers)
        record = add_release(self.repository, "tacho", f"1.{number}.0", {"page": f"page {number}"}, health=QUICK)
        return self.repository.export("tacho", record.version, "any", self.folder)

    def install(self, file: Path) -> Said:
        return flotilla_agent("install", file, *self.options, folder=self.folder)

    def installed(self) -> dict[str, object]:
        """All that the device runs or could run."""
        with Journal(self.root, read_only=True) as journal:
            installs = journal.installs()
        packages, objects = everything_in(self.root / "packages"), tree_of(self.root / "objects")
        return {"packages": packages, "objects": objects, "installs": installs}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    made = Shelf(tmp_path_factory.mktemp("shelf"))
    made.install(made.export()).well()
    return made


Spoil = Callable[[Path], object]


def changed(change: Callable[[str, bytes], tuple[str, bytes]]) -> Spoil:
    """Pass each member's name and content through `change`."""

    def spoil(file: Path) -> None:
        with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as old, tarfile.open(file, "w") as new:
            for member in old:
                content = old.extractfile(member)
                member.name, plain = change(member.name, content.read() if content else b"")
                member.size, member.pax_headers = len(plain), {}
                new.addfile(member, io.BytesIO(plain))

    return spoil


def flipped(folder: str) -> Spoil:
    """Change the last byte of what lies in a folder of the file."""
    return changed(
        lambda name, plain: (name, plain[:-1] + bytes([plain[-1] ^ 1]) if name.startswith(folder) else plain)
    )


def moved(name_of_contents: str) -> Spoil:
    """Give the contents another name."""
    return changed(lambda name, plain: (name_of_contents if name.startswith("objects/") else name, plain))


def unsigned(file: Path) -> None:
    """What `flotilla build` makes."""
    make_package(file.parent, "tacho", "1.99.0", {"page": "forged"}).replace(file)


def of_a_stranger(file: Path) -> None:
    """The same version of another controller's."""
    version = file.name.split("-")[1]
    with tempfile.TemporaryDirectory() as folder:
        other = Shelf(Path(folder))
        add_release(other.repository, "tacho", version, {"page": "another"}, health=QUICK)
        other.repository.export("tacho", version, "any", file)


FILES: dict[str, tuple[Spoil, str]] = {
    "no Flotilla file": (lambda file: file.write_bytes(b"x" * 5000), "{file}: is not a Flotilla file"),
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), "{file}: is cut short"),
    "an unsigned package": (
        unsigned,
        "{file}: is an unsigned package; push it to a controller and install what `flotilla export` makes of it",
    ),
    "another controller's release": (
        of_a_stranger,
        "rejected     tacho {version}  trust.root: {file}: begins with another root than this device trusts; ...",
    ),
    "a manifest whose digest is wrong": (
        flipped("targets/"),
        "failed       tacho {version}  verify.digest: {file}: manifest tacho@{version}@any.json.zst does not have ...",
    ),
    "an object whose content is wrong": (
        flipped("objects/"),
        "failed       tacho {version}  verify.digest: content {object}… has another hash: ...",
    ),
    "a member named ../x": (
        moved("../x"),
        "failed       tacho {version}  fetch.not_found: {file}: does not hold objects/{object}.zst",
    ),
    "an absolute path": (
        moved("/etc/x"),
        "failed       tacho {version}  fetch.not_found: {file}: does not hold objects/{object}.zst",
    ),
}


@pytest.mark.parametrize("wrong", FILES)
def test_a_file_that_must_not_be_installed(shelf: Shelf, wrong: str) -> None:
    """Whether it is refused at once or turns out to be bad, one line says why, and what is installed stays."""
    spoil, line = FILES[wrong]
    file = shelf.export()
    version = file.name.split("-")[1]
    spoil(file)
    before, around = shelf.installed(), {path for path in everything_in(shelf.folder) if not path.startswith("device/")}

    said = shelf.install(file)

    *story, problem = said.out.splitlines() or [said.refusal()]
    assert same(problem, line.replace("{file}", file.name).replace("{version}", version)), problem
    assert said.status == 1
    assert not said.out or not said.err
    assert {one.split()[0] for one in story} <= {"installing", "accepted", "fetching"}
    assert shelf.installed() == before
    assert {path for path in everything_in(shelf.folder) if not path.startswith("device/")} == around
    shelf.install(shelf.export()).well()


def test_an_expired_file_is_not_installed(tmp_path: Path) -> None:
    old = Shelf(tmp_path, now=datetime.now(UTC) - timedelta(days=60))
    file = old.export()
    said = old.install(file)
    assert said.status == 1
    line = f"rejected     tacho 1.0.0  trust.expired: {file.name}: the signatures have expired (timestamp.json is ..."
    assert same(said.out.splitlines()[-1], line), said
    assert not tree_of(old.root / "packages")
    assert not tree_of(old.root / "objects")
    old.now = None
    old.repository.refresh_metadata()
    old.install(old.repository.export("tacho", "1.0.0", "any", tmp_path)).well()


def same(said: str, line: str) -> bool:
    """Whether this was said, where `{object}` stands for a hash and `...` for the rest."""
    words = re.escape(line).replace(r"\{object\}", "[0-9a-f]{12,64}").replace(r"\.\.\.", ".+")
    return re.fullmatch(words, said) is not None
