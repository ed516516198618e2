"""Operations in the JSON of the API: half are transactional email to one recipient, half are campaigns.

All were created within the last 40 minutes, so every window that the exporter polls contains all of them.
"""

import json
import random
import time

SPAN_SECONDS = 2400
LARGEST_CAMPAIGN = 20_000
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _BASE32 for second in _BASE32]
_TEMPLATE = (
    '{"id":"%s","status":"%s","stats":{"total":%d,"recipients":%d,"attempts":%d,"scheduled":%d,"queued":%d,"sent":%d,'
    '"delivered":%d,"opened":%d,"undelivered":%d,"failed":%d,"canceled":%d},"createdAt":"%s","updatedAt":"%s"}'
)


def make(count, *, now, seed=0):
    """Return *count* operations, newest first."""
    chance = random.Random(seed)
    timestamps = [_timestamp(now - age) for age in range(SPAN_SECONDS + 1)]
    made = []
    for index in range(count):
        age = index * (SPAN_SECONDS - 60) / count + 30
        stats = _transactional(chance) if index % 2 else _campaign(chance)
        status, total, attempts, *rest = stats
        created = timestamps[int(age)]
        updated = timestamps[int(age * chance.random())]
        identifier = _identifier(now - age, chance)
        made.append((_TEMPLATE % (identifier, status, total, total, attempts, *rest, created, updated)).encode())
    return made


def changed(entry, *, now):
    """Return *entry* as it may be some seconds later, with some counters changed."""
    operation = json.loads(entry)
    stats = operation["stats"]
    if stats["scheduled"]:
        operation["status"] = "PROCESSING"
        stats["queued"], stats["scheduled"] = stats["scheduled"], 0
    elif stats["queued"]:
        moved = _some(stats["queued"])
        for name, by in (("queued", -moved), ("sent", moved), ("attempts", moved)):
            stats[name] += by
        operation["status"] = "PROCESSING" if stats["queued"] else "COMPLETED"
    elif undecided := stats["sent"] - stats["delivered"] - stats["undelivered"]:
        stats["delivered"] += _some(undecided)
    elif unopened := stats["delivered"] - stats["opened"]:
        stats["opened"] += _some(unopened)
    else:
        # All emails are in a final state. Only attempts can still change.
        stats["attempts"] += 1
    operation["updatedAt"] = _timestamp(now)
    return json.dumps(operation, separators=(",", ":")).encode()


def _transactional(chance):
    """Return status, total, attempts and the counters from "scheduled" on, of email to one recipient."""
    fate = chance.random()
    if fate < 0.02:
        return "PROCESSING", 1, 0, 0, 1, 0, 0, 0, 0, 0, 0
    if fate < 0.04:
        return "COMPLETED", 1, 1, 0, 0, 0, 0, 0, 0, 1, 0
    if fate < 0.06:
        return "COMPLETED", 1, 1, 0, 0, 1, 0, 0, 1, 0, 0
    return "COMPLETED", 1, 1, 0, 0, 1, 1, int(fate < 0.5), 0, 0, 0


def _campaign(chance):
    """Return the same of email to many recipients."""
    total = chance.randint(2, LARGEST_CAMPAIGN)
    fate = chance.random()
    if fate < 0.02:
        return "SCHEDULED", total, 0, total, 0, 0, 0, 0, 0, 0, 0
    if fate < 0.03:
        return "CANCELED", total, 0, 0, 0, 0, 0, 0, 0, 0, total
    failed = int(total * 0.02 * chance.random())
    queued = int((total - failed) * chance.random()) if fate < 0.3 else 0
    sent = total - failed - queued
    undelivered = int(sent * 0.05 * chance.random())
    delivered = int((sent - undelivered) * (0.5 + chance.random() / 2))
    opened = int(delivered * chance.random())
    attempts = sent + failed + int(failed * chance.random())
    status = "PROCESSING" if queued else "COMPLETED"
    return status, total, attempts, 0, queued, sent, delivered, opened, undelivered, failed, 0


def _identifier(created, chance):
    """Return an id like Twilio's, with a ULID, which begins with the milliseconds of its creation."""
    number = int(created * 1000) << 80 | chance.getrandbits(80)
    return "comms_operation_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def _some(count):
    return max(1, count // 4)


def _timestamp(moment):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
