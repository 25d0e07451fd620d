"""How many connections an address may have, and which addresses that is asked of."""

import resource

import pytest

from controller.crowding import LOOPBACK, OPEN_FILES, TELL_EVERY_S, Crowd, most_of_one, open_more_files

ENDLESS = resource.RLIM_INFINITY


class Limits:
    """What the system lets this process open."""

    def __init__(self, soft: int, hard: int, patch: pytest.MonkeyPatch) -> None:
        self.now = (soft, hard)
        patch.setattr(resource, "getrlimit", lambda _which: self.now)
        patch.setattr(resource, "setrlimit", self._set)

    def _set(self, _which: int, limits: tuple[int, int]) -> None:
        if self.now[1] != ENDLESS and limits[0] > self.now[1]:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::ffff:127.0.0.1", None),
        ("::1", None),
        ("10.1.2.3", None),
        ("10.2.2.3", "10.2.2.3/32"),
        ("2001:db8::9", None),
        (None, None),
        ("", None),
        ("/run/flotilla.sock", None),
    ],
)
def test_an_address_counts_unless_others_come_through_it(host: str | None, site: str | None) -> None:
    crowd = Crowd(1, (*LOOPBACK, "10.1.0.0/16", "2001:db8::9", "proxy.example.com"))
    found = crowd.site_of(host)
    assert (None if found is None else str(found)) == site


def test_where_all_are_proxies_nobody_is_counted() -> None:
    crowd = Crowd(1, ("*",))
    assert crowd.site_of("192.0.2.7") is crowd.site_of("2001:db8::9") is None
    assert all(crowd.enter(None, 0.0) for _ in range(10))


def test_so_many_and_no_more_and_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(3, LOOPBACK)
    site, other = crowd.site_of("2001:db8::1"), crowd.site_of("192.0.2.7")
    assert [crowd.enter(site, 1.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert crowd.enter(other, 1.0)
    crowd.leave(site)
    assert [crowd.enter(site, 2.0) for _ in range(2)] == [True, False]
    assert not crowd.enter(site, 1.0 + TELL_EVERY_S)
    lines = [record.getMessage().split(";")[0] for record in caplog.records]
    assert lines == [
        "2001:db8::/64 has 3 connections, more are closed at once (1 since the last such line)",
        "2001:db8::/64 has 3 connections, more are closed at once (3 since the last such line)",
    ]


def test_nothing_is_kept_of_who_has_gone() -> None:
    crowd = Crowd(3, LOOPBACK)
    for number in range(100):
        site = crowd.site_of(f"192.0.2.{number}")
        assert crowd.enter(site, 0.0)
        crowd.leave(site)
    assert not crowd._there


@pytest.mark.parametrize(
    ("soft", "hard", "opens", "most"),
    [
        (1024, 524_288, OPEN_FILES, 4064),
        (1024, ENDLESS, OPEN_FILES, 4064),
        (1024, 4096, 4096, 992),
        (1024, 1024, 1024, 224),
        (65_536, 524_288, 65_536, 16_352),
        (ENDLESS, ENDLESS, ENDLESS, 4096),
        (64, 64, 64, 1),
    ],
)
def test_as_many_files_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, opens: int, most: int
) -> None:
    limits = Limits(soft, hard, monkeypatch)
    open_more_files()
    assert limits.now == (opens, hard)
    assert most_of_one() == most


def test_what_the_system_refuses_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    Limits(1024, 2048, monkeypatch)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    open_more_files()
    assert most_of_one() == 224
