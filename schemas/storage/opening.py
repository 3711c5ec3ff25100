"""Which storage a location has."""

from __future__ import annotations

from parquetry.schemas.location import Location
from parquetry.schemas.storage.storage import Storage


def open_storage(location: Location) -> Storage:
    """The storage of a folder; nothing is read or created yet."""
    # the object-store client is loaded only where one is used
    if location.is_local:
        from parquetry.schemas.storage.local import LocalStorage

        return LocalStorage(location)
    from parquetry.schemas.storage.object_store import ObjectStorage

    return ObjectStorage(location)
