"""The object store: one thin layer over the minio client.

``client.Store`` is all that the rest of the program sees; ``multipart`` uploads what is large and
``signed`` sends presigned requests; ``connection`` makes the client and maps its errors to ours;
``listing`` reads listings; ``pool`` counts all requests; ``clock`` signs by the store's time;
``conditional`` finds out whether a store honours conditional writes.
"""

from __future__ import annotations

from coldfusion_queue.store.client import ObjectInfo, Store
from coldfusion_queue.store.conditional import check_conditional_writes

__all__ = ["ObjectInfo", "Store", "check_conditional_writes"]
