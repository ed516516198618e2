"""Identifiers like Twilio's: a prefix and a ULID, whose first ten characters encode the time of creation."""

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
OPERATION_PREFIX = "comms_operation_"
EMAIL_PREFIX = "comms_email_"

_ULID_LENGTH = 26
_TAIL_LENGTH = 4  # the end of an email's id, which encodes its index; a million is enough for 10,000 emails


def operation_id(created: float, entropy: int) -> str:
    """Return an operation's id for its time of creation in epoch seconds and 80 random bits."""
    return OPERATION_PREFIX + _base32(int(created * 1000) << 80 | entropy, _ULID_LENGTH)


def email_id(operation: str, email: int) -> str:
    """Return the id of the email at index *email*: its operation's id, with the index at the end."""
    return EMAIL_PREFIX + stem(operation) + _base32(email, _TAIL_LENGTH)


def inbound_id(created: float, entropy: int) -> str:
    """Return the id of an email that belongs to no operation."""
    return EMAIL_PREFIX + operation_id(created, entropy).removeprefix(OPERATION_PREFIX)


def stem(identifier: str) -> str:
    """Return what the ids of an operation and of all its emails have in common."""
    return identifier.rpartition("_")[2][: _ULID_LENGTH - _TAIL_LENGTH]


def email_index(identifier: str) -> int | None:
    """Return the email's index in its operation, or None if *identifier* is not an email's id."""
    tail = identifier.removeprefix(EMAIL_PREFIX)[_ULID_LENGTH - _TAIL_LENGTH :]
    if not identifier.startswith(EMAIL_PREFIX) or len(tail) != _TAIL_LENGTH or not set(tail) <= set(ALPHABET):
        return None
    index = 0
    for character in tail:
        index = index * len(ALPHABET) + ALPHABET.index(character)
    return index


def _base32(number: int, length: int) -> str:
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(length)))
