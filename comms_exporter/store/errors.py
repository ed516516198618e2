"""Why a store cannot load or save."""


class StoreError(Exception):
    """The store cannot be read or written at the moment; the message says where and why."""


class StateInUseError(StoreError):
    """Another process uses this store."""


class StateLostError(StoreError):
    """The store lacks earlier saves: the next snapshot has to contain everything."""


class UnreadableError(Exception):
    """The store contains something that this version did not write and cannot trust."""
