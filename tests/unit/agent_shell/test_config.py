"""agent.toml and flags: what is taken, and the one line that each mistake gives."""

import argparse
from pathlib import Path

import pytest

from device_agent.cli.options import add_config_options, flags_from
from device_agent.config import AgentConfig
from device_agent.config_file import Flag, device_id_from, load_config
from schemas.errors import OperatorError
from schemas.messages import Window


def load(folder: Path, text: str, **flags: object) -> AgentConfig:
    file = folder / "agent.toml"
    file.write_text(text)
    given = {key: Flag("--" + key, value) for key, value in flags.items()}
    return load_config(file, given, host_name="Tacho_Pi.local")


def test_everything_has_a_default_but_the_id_which_is_the_host_names() -> None:
    config = load_config(None, {}, host_name="Tacho_Pi.local")
    assert config == AgentConfig(id="tacho-pi")
    assert (config.root, config.channel, config.packages) == (Path("/var/lib/flotilla"), "stable", ["*"])
    assert config.broker == "mqtt://127.0.0.1:1883"
    assert config.takes_every_package


def test_the_whole_file_is_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        id = "pi-7"
        root = "state"
        broker = "mqtts://broker.example:8883"
        channel = "beta"
        packages = ["tacho", "camera"]
        repositories = ["https://repo.example/flotilla"]
        trusted_root = "/etc/flotilla/root.json"
        topic_root = "plant/flotilla"
        [broker_auth]
        username = "pi-7"
        password_file = "secret"
        ca = "/etc/ssl/ca.pem"
        [tags]
        site = "harbour"
        [facts]
        rack = 3
        spare = true
        [settings.tacho]
        port = 8080
        debug = false
        [policy]
        local_changes = "keep-copy"
        link_install_path = false
        [policy.install_paths]
        tacho = "/srv/tacho"
        """,
    )
    assert config.root == tmp_path / "state"
    assert config.broker_auth.password_file == tmp_path / "secret"
    assert config.trusted_root == Path("/etc/flotilla/root.json")
    assert config.named_packages == {"tacho", "camera"}
    assert not config.takes_every_package
    assert config.settings_of("tacho") == {"port": "8080", "debug": "false"}
    assert config.settings_of("camera") == {}
    assert config.facts == {"rack": 3, "spare": True}
    assert config.policy.install_paths == {"tacho": Path("/srv/tacho")}
    assert config.link_settings().client_id == "pi-7"
    assert config.link_settings().password_file == tmp_path / "secret"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("chanel = 'x'", "agent.toml: chanel: no such key; did you mean `channel`?"),
        ("[policy]\nlocal_change = 'abort'", "policy.local_change: no such key; did you mean `local_changes`?"),
        ("[broker_auth]\npassword = 'x'", "broker_auth.password: no such key; did you mean `password_file`?"),
        ("zzz = 1", "zzz: no such key; known keys here: broker,"),
        ("id = 'Pi 7'", "id: must be a name: a-z, 0-9 and '-'"),
        ("id = 'controller'", "id: 'controller' is a reserved name"),
        ("channel = ''", "channel: must be a short name: a-z, 0-9 and '-'"),
        ("packages = []", 'packages: is empty; name packages, or write ["*"] for all'),
        ("packages = ['Tacho']", "packages: 'Tacho' is not a package name"),
        ("repositories = ['ftp://x']", "repositories: 'ftp://x' is not an http:// or https:// address"),
        ("broker = 'http://x'", "broker: broker address 'http://x': write mqtt://HOST:PORT"),
        ("topic_root = 'a/#'", "topic_root: topic root 'a/#'"),
        ("[tags]\nsite = 5", "tags.site: must be text, not a whole number"),
        ("[tags]\n'a b' = 'x'", "tags.a b: must be a key: letters"),
        ("[settings]\ntacho = 1", "settings.tacho: must be a table, not a whole number"),
        (
            "[settings.tacho]\nport = [1]",
            "settings.tacho: must be true or false or a whole number or a number or text, not a list",
        ),
        ("[policy]\nlocal_changes = 'maybe'", "policy.local_changes: Invalid enum value 'maybe'"),
        ("[policy.install_paths]\ntacho = 'opt'", "policy.install_paths.tacho: 'opt' is not a plain absolute path"),
        ("[policy.install_paths]\ntacho = '/'", "policy.install_paths.tacho: '/' is not a plain absolute path"),
        ("policy = 3", "policy: must be a table, not a whole number"),
        ("[broker_auth]\npassword_file = 'x'", "broker_auth.password_file: needs a username beside it"),
        ("broker='mqtts://b'\n[broker_auth]\ncert = 'x'", "broker_auth.cert: cert and key go together"),
        ("[broker_auth]\nca = 'x'", "certificate files need an address that starts with mqtts://"),
        ("root = ''", "root: Expected the path of a file or folder"),
        ("root = '~nobody-here/x'", "root: '~nobody-here/x' names nobody's home folder"),
        ("trusted_root = 'a\\u0000b'".replace("'", '"'), "trusted_root: Expected the path of a file or folder"),
        ("id == 1", "is not TOML:"),
        (
            "[policy]\nwindows = ['25:00-26:00']",
            "policy.windows: '25:00-26:00' is not a window; write",
        ),
        ("[policy]\nwindows = ['son 01:00-02:00']", "policy.windows: 'son' is not a day; there are mon, tue, wed,"),
        ("[policy]\nreach_broker_s = -1", "policy.reach_broker_s: "),
        ("[gate]\ntemperature = 80", "gate.temperature: no such key; did you mean `temperature_c`"),
        ("[gate]\ntemperature_c = 'hot'", "gate.temperature_c: "),
    ],
)
def test_a_mistake_gives_one_line_with_file_and_key(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(OperatorError) as caught:
        load(tmp_path, text)
    assert line in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "agent.toml"))
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_flag_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"^--channel: must be a short name"):
        load(tmp_path, "", channel="No Good")


def test_a_file_that_is_not_there_or_too_large_is_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no such file"):
        load_config(tmp_path / "none.toml", {}, host_name="pi")
    with pytest.raises(OperatorError, match="is over"):
        load(tmp_path, "#" * 300_000)


def test_flags_go_before_the_file_and_pairs_add_to_it(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    words = [
        *("--channel", "beta", "--package", "tacho", "--package", "camera", "--tag", "floor=2", "--fact", "rack=a=b"),
        *("--setting", "tacho.port=80", "--setting", "tacho.name=x", "--local-changes", "overwrite"),
        *("--no-link-install-path", "--install-path", "tacho=/srv/t", "--username", "u", "--root", str(tmp_path)),
    ]
    file = tmp_path / "agent.toml"
    file.write_text("channel = 'stable'\n[tags]\nsite = 'harbour'\n[settings.tacho]\nport = 1\nkept = 'yes'\n")
    config = load_config(file, flags_from(vars(parser.parse_args(words))), host_name="pi")
    assert config.channel == "beta"
    assert config.packages == ["tacho", "camera"]
    assert config.tags == {"site": "harbour", "floor": "2"}
    assert config.facts == {"rack": "a=b"}
    assert config.settings_of("tacho") == {"port": "80", "name": "x", "kept": "yes"}
    assert (config.policy.local_changes, config.policy.link_install_path) == ("overwrite", False)
    assert config.policy.install_paths == {"tacho": Path("/srv/t")}
    assert config.root == tmp_path


def test_windows_and_limits_are_read_from_file_and_flags(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [policy]
        windows = ["22:00-05:00", "fri-mon 01:00-02:00", "sat,sun 03:00-04:00"]
        fetch_outside_windows = true
        longest_postponement_s = 600
        reach_broker_s = 0
        [gate]
        temperature_c = 70
        throttled = false
        """,
    )
    rules = config.rules()
    assert rules.windows == (
        Window(start="22:00", end="05:00"),
        Window(start="01:00", end="02:00", days=[0, 4, 5, 6]),
        Window(start="03:00", end="04:00", days=[5, 6]),
    )
    assert (rules.fetch_outside_windows, rules.longest_postponement_s, rules.reach_broker_s) == (True, 600, 0)
    assert (rules.limits.temperature_c, rules.limits.throttled, rules.limits.under_voltage) == (70, False, True)
    assert AgentConfig(id="pi").rules().reach_broker_s == 300
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    words = ["--window", "sun 01:00-02:00", "--gate", "throttled=true", "--gate", "memory_free_mib=64.5"]
    flags = flags_from(vars(parser.parse_args([*words, "--fetch-outside-windows", "--reach-broker-s", "60"])))
    given = load_config(tmp_path / "agent.toml", flags, host_name="pi")
    assert given.rules().windows == (Window(start="01:00", end="02:00", days=[6]),)
    assert (given.gate.throttled, given.gate.memory_free_mib, given.gate.temperature_c) == (True, 64.5, 70)
    assert given.rules().reach_broker_s == 60


@pytest.mark.parametrize("words", [["--tag", "site"], ["--setting", "port=80"], ["--install-path", "=x"]])
def test_a_pair_without_its_form_is_refused(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    with pytest.raises(OperatorError, match=f"^{words[0]} {words[1]}: write "):
        flags_from(vars(parser.parse_args(words)))


def test_every_key_of_the_configuration_has_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    given = set(vars(parser.parse_args([])))
    keys = set(AgentConfig.__struct_fields__) - {"broker_auth", "policy"}  # all limits of the gate share one flag
    nested = {f"{part}.{key}" for part in ("broker_auth", "policy") for key in fields_of(part)}
    assert keys | nested == given - {"config"}


def fields_of(part: str) -> tuple[str, ...]:
    return type(getattr(AgentConfig(id="pi"), part)).__struct_fields__


@pytest.mark.parametrize(
    ("host", "device"),
    [("raspberrypi", "raspberrypi"), ("Pi_4.lan", "pi-4"), ("-x-", "x"), ("é9", "9"), ("a" * 80, "a" * 63)],
)
def test_an_id_is_made_from_the_host_name(host: str, device: str) -> None:
    assert device_id_from(host) == device


@pytest.mark.parametrize("host", ["localhost", "", "___", "localhost.localdomain"])
def test_a_host_name_that_says_nothing_is_refused(host: str) -> None:
    with pytest.raises(OperatorError, match="does not tell devices apart"):
        device_id_from(host)
