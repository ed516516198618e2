"""An email counts for a stage once, by every label, and the number of label values is bounded."""

from collections import Counter

import pytest
from msgspec.structs import replace
from operations import NOW, account_with_emails, apply, email, learn, listing, operation, restarted

from comms_exporter.collect.emails.state import EmailOptions, EmailState
from comms_exporter.collect.state import AccountState
from comms_exporter.model.email_records import INBOUND, STAGES, email_key, unpack_email
from comms_exporter.model.histogram import Exemplar
from comms_exporter.model.providers import OTHER, Providers

DAY = 86400


def counted(state, label):
    """Return what is counted by *label*, as {value: {stage: count}}, without zeros."""
    return {
        value: {stage: count for stage, count in zip(STAGES, counts, strict=True) if count}
        for (each, value), counts in state.emails.counts.counts.items()
        if each == label and any(counts)
    }


class TestStages:
    @pytest.mark.parametrize(
        ("status", "stages"),
        [
            ("SCHEDULED", {}),
            ("QUEUED", {}),
            ("SENT", {"sent": 1}),
            ("DELIVERED", {"sent": 1, "delivered": 1}),
            ("OPENED", {"sent": 1, "delivered": 1, "opened": 1}),
            ("UNDELIVERED", {"sent": 1, "undelivered": 1}),
            ("FAILED", {"failed": 1}),
            ("CANCELED", {}),
            ("INBOUND", {}),
            ("SURPRISED", {}),
        ],
    )
    def test_a_status_counts_for_the_stages_that_led_to_it(self, status, stages):
        state = account_with_emails(all_stages=True)

        for _ in range(2):
            learn(state, email(status=status))

        assert ({"gmail": stages} if stages else {}) == counted(state, "provider")

    def test_without_all_stages_only_losses_count(self):
        state = account_with_emails()

        learn(state, email("a", status="OPENED"), email("b", status="UNDELIVERED"), email("c", status="FAILED"))

        assert {"gmail": {"undelivered": 1, "failed": 1}} == counted(state, "provider")
        assert 2 == len(state.emails.known)

    def test_an_earlier_status_from_a_replica_that_lags_changes_nothing(self):
        state = account_with_emails(all_stages=True)

        learn(state, email(status="OPENED"), email(status="SENT"), email(status="DELIVERED"))

        assert {"gmail": {"sent": 1, "delivered": 1, "opened": 1}} == counted(state, "provider")

    def test_an_inbound_email_counts_once(self):
        state = account_with_emails()

        learn(state, email(status="INBOUND"), email(status="INBOUND"), email("old", status="INBOUND", created=NOW - 99))

        assert 1 == state.emails.inbound
        assert {} == counted(state, "provider")


def test_what_is_known_of_many_emails_takes_the_memory_of_one():
    """A million emails would take 32 MB more."""
    state = account_with_emails(all_stages=True)
    learn(state, *(email(f"{n}") for n in range(9)))

    assert 1 == len(set(map(id, state.emails.known.values())))
    again = restarted(state, all_stages=True).emails
    assert state.emails.known == again.known
    assert 1 == len(set(map(id, again.known.values())))


class TestFirstLook:
    def test_counts_nothing(self):
        state = AccountState(emails=EmailState(EmailOptions()))
        apply(state, listing(sweep=True))
        state.emails.begin(NOW)
        learn(
            state, email("before", status="FAILED", created=NOW - 9), email("after", status="FAILED", created=NOW + 1)
        )
        state.emails.end_first_look()
        learn(state, email("before", status="FAILED", created=NOW - 9))

        assert {"gmail": {"failed": 1}} == counted(state, "provider")

    def test_an_email_that_was_on_its_way_counts_when_it_is_lost_later(self):
        state = account_with_emails(at=NOW)

        losses = learn(state, email(status="UNDELIVERED", created=NOW - DAY, updated=NOW + 5))

        assert 1 == len(losses)
        assert {"gmail": {"undelivered": 1}} == counted(state, "provider")

    def test_an_email_that_a_lagging_replica_left_out_does_not_count_later(self):
        state = account_with_emails(at=NOW)

        learn(state, email(status="UNDELIVERED", created=NOW - DAY, updated=NOW - 5))

        assert {} == counted(state, "provider")
        assert 1 == len(state.emails.known)

    def test_what_was_lost_before_decides_which_values_are_admitted(self):
        state = AccountState(emails=EmailState(EmailOptions(max_values=1)))
        apply(state, listing(sweep=True))
        state.emails.begin(NOW)
        before = [email(f"{n}", status="FAILED", created=NOW - 9, sender="worst.example") for n in range(3)]
        learn(state, email(status="FAILED", created=NOW - 9, sender="first.example"), *before)
        state.emails.end_first_look()
        learn(state, email("a", status="FAILED", sender="first.example"))
        learn(state, email("b", status="FAILED", sender="worst.example"))

        assert {OTHER: {"failed": 1}, "worst.example": {"failed": 1}} == counted(state, "sender_domain")

    def test_all_stages_have_a_first_look_of_their_own(self):
        """After a time with --emails.collect=lost."""
        state = account_with_emails()
        learn(state, email("lost", status="UNDELIVERED"))
        again = restarted(state, all_stages=True)
        again.emails.begin(NOW + 60)
        assert not again.emails.first_look_complete

        learn(again, email("lost", status="UNDELIVERED"), email("sent", status="OPENED"), email("bad", status="FAILED"))
        again.emails.end_first_look()
        learn(again, email("new", status="SENT", created=NOW + 61))

        assert {"gmail": {"undelivered": 1, "failed": 1, "sent": 1}} == counted(again, "provider")

    def test_losses_keep_counting_while_all_stages_have_their_first_look(self):
        state = account_with_emails()
        again = restarted(state, all_stages=True)
        again.emails.begin(NOW + 60)

        learn(again, email("bad", status="UNDELIVERED", created=NOW + 5))

        assert {"gmail": {"undelivered": 1}} == counted(again, "provider")


class TestLabels:
    def test_counts_by_provider_sender_and_allowed_tags(self):
        state = account_with_emails(tags=("campaign",), providers=Providers({"acme": ["acme.example"]}))

        learn(
            state,
            email("a", status="FAILED", to="mail.acme.example", sender="news.example", campaign="spring", secret="x"),
            email("b", status="FAILED", to="", sender=""),
        )

        assert {"acme": {"failed": 1}, OTHER: {"failed": 1}} == counted(state, "provider")
        assert {"news.example": {"failed": 1}, OTHER: {"failed": 1}} == counted(state, "sender_domain")
        assert {"spring": {"failed": 1}} == counted(state, "tag:campaign")
        assert {} == counted(state, "tag:secret")

    def test_those_that_lose_the_most_are_admitted_and_stay(self):
        state = account_with_emails(max_values=2)
        lost = [email(f"{n}", status="FAILED", sender=f"s{n % 4}.example") for n in range(4)]
        more = [email(f"more {n}", status="FAILED", sender=f"s{n % 2 + 2}.example") for n in range(4)]
        learn(state, *lost, *more)
        learn(state, *[email(f"late {n}", status="FAILED", sender="s0.example") for n in range(9)])

        assert {
            "s2.example": {"failed": 3},
            "s3.example": {"failed": 3},
            OTHER: {"failed": 11},
        } == counted(state, "sender_domain")

    def test_half_of_the_places_are_kept_for_values_with_losses(self):
        state = account_with_emails(all_stages=True, max_values=4)

        learn(state, *[email(f"{n}", status="SENT", sender=f"good{n}.example") for n in range(9)])
        learn(state, *[email(f"lost {n}", status="FAILED", sender=f"bad{n}.example") for n in range(9)])

        assert {
            OTHER: {"sent": 7, "failed": 7},
            **{f"good{n}.example": {"sent": 1} for n in range(2)},
            **{f"bad{n}.example": {"failed": 1} for n in range(2)},
        } == counted(state, "sender_domain")

    def test_series_are_bounded_whatever_the_mail_is_like(self):
        """10,000 sender domains, recipient domains and values of a tag."""
        state = account_with_emails(all_stages=True, tags=("campaign", "user"), max_values=20)
        for start in range(0, 10_000, 1000):
            learn(
                state,
                *[
                    email(
                        f"{n}",
                        status="UNDELIVERED",
                        to=f"r{n}.example",
                        sender=f"s{n}.example",
                        campaign="c",
                        user=f"{n}",
                    )
                    for n in range(start, start + 1000)
                ],
            )

        numbers = Counter(label for label, _ in state.emails.counts.counts)
        assert {"provider": 1, "sender_domain": 21, "tag:campaign": 1, "tag:user": 21} == numbers
        for label in numbers:
            assert 10_000 == sum(each["undelivered"] for each in counted(state, label).values())

    @pytest.mark.parametrize("value", ["\u202e\u200bx", 'a"b\\c\nd', "x" * 128])
    def test_hostile_values_are_safe(self, value):
        state = account_with_emails(tags=("campaign",))

        learn(state, email(status="FAILED", campaign=value))

        (shown,) = counted(state, "tag:campaign")
        assert shown.isprintable()

    def test_exemplars_name_the_last_lost_email(self):
        state = account_with_emails(all_stages=True)

        learn(state, email("a", status="UNDELIVERED", updated=NOW + 30), email("b", status="DELIVERED"), at=NOW + 60)

        undelivered = STAGES.index("undelivered")
        assert (
            Exemplar("a", 1, NOW + 60, "email_id") == state.emails.counts.exemplars[("provider", "gmail"), undelivered]
        )
        assert [Exemplar("a", 30.0, NOW + 60, "email_id")] == list(state.emails.delays.exemplars.values())
        assert 30.0 == state.emails.delays.sum


class TestUnattributed:
    def test_is_what_operations_count_and_emails_do_not_explain(self):
        state = account_with_emails()
        apply(state, listing(operation("a", total=9, failed=2, undelivered=1)))
        assert {"failed": 2, "undelivered": 1} == state.emails.view().unattributed

        learn(state, email("x", status="FAILED", of="a"), email("y", status="UNDELIVERED", of="a"))
        assert {"failed": 1, "undelivered": 0} == state.emails.view().unattributed

        learn(state, email("z", status="FAILED", of="a"))
        assert {"failed": 0, "undelivered": 0} == state.emails.view().unattributed

    def test_is_the_same_after_a_restart(self):
        state = account_with_emails()
        apply(state, listing(operation("a", total=9, failed=2, undelivered=1)))
        learn(state, email("x", status="FAILED", of="a"))

        again = restarted(state)

        assert {"failed": 1, "undelivered": 1} == again.emails.view().unattributed
        assert state.emails.deficits.missing() == again.emails.deficits.missing()

    def test_an_email_counts_for_the_hour_of_its_operation(self):
        """The emails of a scheduled operation may be created days after it."""
        state = account_with_emails()
        apply(state, listing(operation("a", created=NOW - 50, total=1, failed=1)))
        apply(state, listing(at=NOW + 2 * DAY))

        learn(state, email(status="FAILED", of="a", created=NOW + 2 * DAY), at=NOW + 2 * DAY)

        assert {"failed": 0, "undelivered": 0} == state.emails.view().unattributed

    def test_an_email_without_an_operation_may_be_created_in_the_next_hour(self):
        state = account_with_emails()
        apply(state, listing(operation("a", total=1, failed=1)))

        learn(state, email(status="FAILED", created=NOW + 3600), at=NOW + 3600)

        assert {"failed": 0, "undelivered": 0} == state.emails.view().unattributed

    def test_emails_that_are_known_before_their_operation_counts_them_hide_nothing_else(self):
        state = account_with_emails()
        apply(state, listing(operation("old", created=NOW - 10 * 3600, total=1, failed=1)))

        learn(state, email(status="FAILED"))

        assert {"failed": 1, "undelivered": 0} == state.emails.view().unattributed


class TestForgetting:
    def test_emails_are_forgotten_after_7_days_without_changing_a_count(self):
        state = account_with_emails()
        learn(state, email("a", status="FAILED"), email("b", status="FAILED", created=NOW + 2 * DAY), at=NOW + 2 * DAY)
        before = counted(state, "provider")

        apply(state, listing(sweep=True, at=NOW + 7 * DAY + 3601))

        assert [email_key("b")] == list(state.emails.known)
        assert before == counted(state, "provider")

    def test_a_forgotten_email_that_is_listed_again_does_not_count(self):
        state = account_with_emails()
        learn(state, email(status="FAILED"))
        apply(state, listing(sweep=True, at=NOW + 8 * DAY))

        learn(state, email(status="FAILED"), at=NOW + 8 * DAY)

        assert {"gmail": {"failed": 1}} == counted(state, "provider")
        assert {} == state.emails.known

    def test_an_email_without_a_time_is_kept_from_when_it_was_first_seen(self):
        state = account_with_emails()
        unknown = replace(email(status="FAILED"), created_at=None, updated_at=None)
        losses = learn(state, unknown, unknown)

        assert [None] == [loss.delay for loss in losses]
        assert [int(NOW // 60)] == [unpack_email(packed).minute for packed in state.emails.known.values()]

    def test_a_time_in_the_far_future_does_not_keep_an_email_forever(self):
        state = account_with_emails()

        learn(state, email(status="FAILED", created=NOW + 9999 * DAY))

        assert [int(NOW // 60)] == [unpack_email(packed).minute for packed in state.emails.known.values()]


class TestErrors:
    @pytest.fixture
    def state(self):
        state = account_with_emails(errors=True)
        apply(state, listing(operation("a", total=9, failed=3)))
        return state

    def codes(self, state):
        return {value: count for (label, value), (count, *_) in state.emails.counts.counts.items() if label == "code"}

    def test_count_once(self, state):
        assert ["a"] == list(state.emails.errors_due)
        for codes in (["1", "1"], ["1"], ["1", "1", "2"], ["1", "1", "2"]):
            state.emails.apply_errors("a", 3, codes)

        assert {"1": 2, "2": 1} == self.codes(state)

    def test_at_most_20_codes_and_other(self, state):
        state.emails.apply_errors("a", 3, [f"{n}" for n in range(500)])
        state.emails.apply_errors("a", 3, [f"{n}" for n in range(501)])

        assert 21 == len(self.codes(state))
        assert 501 == sum(self.codes(state).values())

    def test_are_not_asked_for_operations_of_before(self, state):
        apply(state, listing(operation("old", created=NOW - 999, total=9, failed=3)))

        assert ["a"] == list(state.emails.errors_due)

    def test_are_forgotten_with_their_operation(self, state):
        state.emails.apply_errors("a", 3, ["1"])
        apply(state, listing(operation("a", status="COMPLETED", updated=NOW + 1, total=9, failed=3)))
        apply(state, listing(sweep=True, at=NOW + 8 * DAY))

        assert ({}, {}) == (state.emails.errors, state.emails.errors_due)
        assert {"1": 1} == self.codes(state)

    def test_are_asked_for_after_a_restart_if_they_were_not_known(self, state):
        state.emails.apply_errors("a", 2, ["1", "1"])

        assert ["a"] == list(restarted(state, errors=True).emails.errors_due)
        state.emails.apply_errors("a", 3, ["1", "1", "1"])
        assert [] == list(restarted(state, errors=True).emails.errors_due)


def test_operations_cost_nothing_without_emails():
    state = AccountState()
    apply(state, listing(sweep=True))
    apply(state, listing(operation("a", total=1, failed=1)))

    assert state.snapshot().emails is None
    assert state.view_of_totals().emails is None


def test_known_emails_are_packed_and_unpacked():
    state = account_with_emails()
    learn(state, email(status="INBOUND"))
    (packed,) = state.emails.known.values()

    assert (int(NOW // 60), 0, INBOUND) == unpack_email(packed)
    assert packed == unpack_email(packed).packed()
