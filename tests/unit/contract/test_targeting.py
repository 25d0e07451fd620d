"""Who is meant by an announcement."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import BUCKETS, Targets
from schemas.targeting import bucket, is_meant, where_holds

ROLLOUT = "01932c07-5a00-7000-8000-000000000001"


def meant(targets: Targets, device: str = "pi-1", **tags: str) -> bool:
    return is_meant(
        targets,
        rollout=ROLLOUT,
        device=device,
        tags=tags,
        facts={"model": "Raspberry Pi 5", "camera": True, "memory": 8},
    )


def test_the_bucket_is_the_rule_of_the_contract() -> None:
    first_four = hashlib.sha256(f"{ROLLOUT}:pi-1".encode()).digest()[:4]
    assert bucket(ROLLOUT, "pi-1") == int.from_bytes(first_four, "big") % 10000
    # fixed values, so that an implementation in another language can check itself
    assert [bucket(ROLLOUT, f"pi-{n}") for n in range(1, 5)] == [7219, 764, 3848, 5816]


def test_a_share_takes_about_its_share() -> None:
    taken = sum(meant(Targets(upto=2500), f"pi-{n}") for n in range(10_000))
    assert 2300 < taken < 2700


@given(st.integers(0, BUCKETS), st.integers(0, BUCKETS), st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True))
def test_widening_a_share_never_drops_a_device(one: int, other: int, device: str) -> None:
    narrow, wide = sorted((one, other))
    assert not meant(Targets(upto=narrow), device) or meant(Targets(upto=wide), device)
    assert meant(Targets(upto=BUCKETS), device)
    assert not meant(Targets(upto=0), device)


def test_listed_devices_are_in_whatever_the_share() -> None:
    assert meant(Targets(upto=0, devices=["pi-1"]))
    assert not meant(Targets(upto=0, devices=["pi-2"]))


def test_excluded_devices_are_out_whatever_else_means_them() -> None:
    assert not meant(Targets(exclude=["pi-1"]))
    assert not meant(Targets(devices=["pi-1"], exclude=["pi-1"]))
    assert meant(Targets(exclude=["pi-2"]))


def test_every_condition_must_hold() -> None:
    both = Targets(where={"site": ["bern", "berlin"], "model": "Raspberry Pi 5"})
    assert meant(both, site="bern")
    assert not meant(both, site="basel")
    assert not meant(both)
    assert not meant(Targets(upto=0, devices=["pi-1"], where={"site": "bern"}), site="basel")


def test_tags_go_before_facts_and_facts_compare_as_json_spells_them() -> None:
    assert where_holds({"model": "mine"}, tags={"model": "mine"}, facts={"model": "Raspberry Pi 5"})
    assert meant(Targets(where={"camera": "true", "memory": "8"}))
    assert not meant(Targets(where={"camera": "True"}))
