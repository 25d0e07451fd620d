"""Whom a wave lets in, where that can be said without looking at anybody. The laws are in `test_laws.py`."""

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.judging import Judge
from controller.rollouts.plan import Observation, Plan
from controller.rollouts.widening import everybody, let_in
from schemas.messages import BUCKETS
from schemas.targeting import bucket
from tests.unit.rollouts.test_laws import NOW, ROLLOUT, fleets, new_plans


@given(plan=new_plans(), fleet=fleets, concurrency=st.sampled_from([None, None, 2]))
def test_a_wave_of_everybody_begins_as_if_each_device_had_been_looked_at(
    plan: Plan, fleet: list[Observation], concurrency: int | None
) -> None:
    first = msgspec.structs.replace(plan.waves[0], upto=100.0, devices=None, where=None, concurrency=concurrency)
    plan = replace(plan, plan=msgspec.structs.replace(plan.plan, waves=[first, *plan.waves[1:]]))
    found = everybody(plan, NOW)
    assert (found is not None) == (plan.base.upto == BUCKETS and concurrency is None)
    if found is not None:
        judge = Judge(plan, NOW)
        marks = {one.device: judge.mark(one) for one in fleet}
        places = {one.device: bucket(ROLLOUT, one.device) for one in fleet}
        assert found == let_in(plan, 0, fleet, NOW, marks=marks, places=places)
