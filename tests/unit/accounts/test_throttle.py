"""How often somebody may try to log in."""

from hypothesis import given
from hypothesis import strategies as st

from controller.accounts.throttle import ACCOUNT, ADDRESS, PAIR, LoginThrottle, network_of

ACCOUNTS = st.sampled_from(["anna", "ben", "carl"])
ADDRESSES = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])
TRIES = st.lists(st.tuples(ACCOUNTS, ADDRESSES, st.floats(0, 40)), max_size=300)


@given(TRIES)
def test_no_more_tries_are_let_through_than_each_limit_allows(tries: list[tuple[str, str, float]]) -> None:
    throttle, now = LoginThrottle(), 1000.0
    let_in: list[tuple[str, str, float]] = []
    for account, address, pause in tries:
        now += pause
        wait_s = throttle.admit(account, address, now)
        assert wait_s >= 0
        if wait_s == 0:
            let_in.append((account, address, now))
    passed = now - 1000.0
    for account in ("anna", "ben", "carl"):
        assert sum(one[0] == account for one in let_in) <= ACCOUNT.tries + passed / ACCOUNT.every_s
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            count = sum(one[:2] == (account, address) for one in let_in)
            assert count <= PAIR.tries + passed / PAIR.every_s
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        assert sum(one[1] == address for one in let_in) <= ADDRESS.tries + passed / ADDRESS.every_s


@given(st.floats(0, 1e6), ACCOUNTS, ADDRESSES)
def test_whoever_waits_as_long_as_told_is_let_through(start: float, account: str, address: str) -> None:
    throttle = LoginThrottle()
    for _ in range(PAIR.tries):
        assert throttle.admit(account, address, start) == 0
    wait_s = throttle.admit(account, address, start)
    assert 0 < wait_s <= PAIR.every_s + 1e-3  # a moment this large has no finer parts than that
    assert throttle.admit(account, address, start + wait_s + 0.001) == 0


def test_a_right_password_makes_good_what_was_mistyped() -> None:
    throttle = LoginThrottle()
    for _ in range(200):
        assert throttle.admit("anna", "192.0.2.1", 0) == 0
        throttle.succeeded("anna", "192.0.2.1")


def test_guessing_from_elsewhere_does_not_lock_the_owner_out() -> None:
    throttle = LoginThrottle()
    while throttle.admit("anna", "192.0.2.66", 0) == 0:
        pass
    assert throttle.admit("anna", "192.0.2.1", 0) == 0


def test_many_addresses_that_guess_together_come_to_an_end() -> None:
    throttle = LoginThrottle()
    tries = sum(throttle.admit("anna", f"192.0.2.{number}", 0) == 0 for number in range(250))
    assert tries == ACCOUNT.tries


def test_memory_is_bounded_whoever_asks() -> None:
    throttle = LoginThrottle(max_counts=1000)
    for number in range(5000):
        throttle.admit("a" * number, f"10.0.{number // 256}.{number % 256}", 0)
        assert len(throttle) <= 1000


def test_one_client_of_ipv6_is_one_client() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("") == ""
