"""Why a store cannot load or save."""


class StoreError(Exception):
    """The store cannot be read or written at the moment; the message says where and why."""


class StateInUseError(StoreError):
    """Another process uses this store."""


class StoreRefusedError(StoreError):
    """The database refuses its use for a reason that waiting does not change, such as a wrong password."""


class StateLostError(StoreError):
    """The store lacks earlier saves: the next snapshot has to contain everything."""


class DatabaseAwayError(StoreError):
    """The database cannot be reached; nobody needs to be told for every account."""


class NotOwnerError(StoreError):
    """The account belongs to another exporter by now: nothing of it may be written or shown."""


class UnreadableError(Exception):
    """The store contains something that this version did not write and cannot trust."""
