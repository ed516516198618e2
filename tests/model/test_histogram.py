"""Histograms count every value in one bucket, whatever the bounds were when it was saved."""

from comms_exporter.model.histogram import Exemplar, Histogram

BOUNDS = (1.0, 5.0, 10.0)


def test_a_value_falls_into_the_first_bucket_that_contains_it():
    histogram = Histogram(BOUNDS)
    for value in (0.5, 1.0, 1.5, 10.0, 11.0):
        histogram.observe(value)

    assert ([2, 1, 1, 1], 24.0) == (histogram.counts, histogram.sum)


def test_a_bucket_remembers_its_last_exemplar():
    histogram = Histogram(BOUNDS)
    histogram.observe(3.0, Exemplar("a", 3.0, 100.0))
    histogram.observe(4.0, Exemplar("b", 4.0, 101.0))
    histogram.observe(5.0)

    assert {1: Exemplar("b", 4.0, 101.0)} == histogram.exemplars


def test_counts_of_other_bounds_go_into_the_first_bucket_that_contains_them():
    histogram = Histogram(BOUNDS)
    histogram.add(Histogram((0.5, 5.0, 7.0, 20.0), [1, 2, 3, 4, 5], 99.0))

    assert ([1, 2, 3, 9], 99.0) == (histogram.counts, histogram.sum)


def test_later_observations_do_not_change_a_copy():
    histogram = Histogram(BOUNDS)
    copy = histogram.copy()
    assert copy == histogram

    histogram.observe(3.0, Exemplar("a", 3.0, 100.0))

    assert Histogram(BOUNDS) == copy
    assert {} == copy.exemplars
    assert copy != histogram


def test_exemplars_are_not_compared():
    one, other = Histogram(BOUNDS), Histogram(BOUNDS)
    one.observe(3.0, Exemplar("a", 3.0, 100.0))
    other.observe(3.0)

    assert one == other
