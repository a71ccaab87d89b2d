"""How Zarr opens what lies in a folder or in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore
from zarr.storage import StorePath as ZarrPath

from wsikit.store.places import ObjectPath, explain

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class Bucket(ObjectStore[Any]):
    """zarr's access to a bucket, with errors that say what is wrong in one line."""

    bucket = ""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As zarr's."""
        try:
            return await super().get(key, prototype, byte_range)
        except Exception as error:
            explain(error, ObjectPath(self.bucket, key))

    async def set(self, key: str, value: Buffer) -> None:
        """As zarr's."""
        try:
            await super().set(key, value)
        except Exception as error:
            explain(error, ObjectPath(self.bucket, key), writing=True)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Nothing. zarr asks for it to make a group of every folder above an array, up to the bucket itself."""


def bucket_of(path: ObjectPath) -> Any:
    """What ``zarr.open_group`` and its like accept for a place in a bucket."""
    store = Bucket(path.connect())
    store.bucket = path.bucket
    return ZarrPath(store, path.key)
