"""A histogram that takes many observations at once says what the library's own says of the same."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from controller.signals.counting import ManyObservations

ENDS = (0.05, 0.5, 5.0)


def said(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for sample in samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.lists(st.sampled_from([0.0, 0.05, 0.06, 0.5, 4.0, 5.0, 70.0]), max_size=5), max_size=5))
def test_it_says_what_a_histogram_says_that_is_told_one_by_one(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry()
    many = ManyObservations("lag", "How late", buckets=ENDS)
    ours.register(many)
    single = Histogram("lag", "How late", buckets=ENDS, registry=theirs)
    for batch in batches:
        many.observe_all(iter(batch))
        for value in batch:
            single.observe(value)
    assert said(ours) == said(theirs)
