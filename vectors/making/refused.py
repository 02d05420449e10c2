"""All frames that are refused: each is refused here by the error that the index names."""

from collections.abc import Callable
from functools import partial
from hashlib import sha256

from making.federation import RECORDED
from making.folder import Folder, Record
from making.layouts import LAYOUTS
from making.readers import Refused, fault_of, read_as_client
from making.refused_broadcasts import refused_by_clients
from making.refused_public import refused_public_models
from making.refused_updates import refused_by_servers


def refused(folder: Folder) -> list[Record]:
    """Keep all frames that are refused, and return what the index says of them.

    Raises:
        ValueError: one is not refused, or by another error.
    """
    rows: list[Refused] = []
    for row in (*refused_by_clients(), *refused_public_models()):
        rows.append(_checked(row, partial(read_as_client, row, LAYOUTS[row.layout])))
    for row, where in refused_by_servers():
        rows.append(_checked(row, partial(where.add, RECORDED, row.data)))
    return [_record(folder, row) for row in rows]


def _checked(row: Refused, read: Callable[[], object]) -> Refused:
    found = fault_of(read)
    if found is not row.error:
        raise ValueError(f"{row.name} should be refused by {row.error.__name__}, got {found}")
    return row


def _record(folder: Folder, row: Refused) -> Record:
    found: Record = {
        "name": row.name,
        "why": row.why,
        "error": row.error.__name__,
        "file": folder.add(f"refused/{row.name}.bin", row.data),
        "reader": row.reader,
        "kind": row.kind.name.lower(),
        "layout": row.layout,
    }
    if row.before:
        found["before"] = [folder.add(f"refused/before/{sha256(b).hexdigest()[:12]}.bin", b) for b in row.before]
    if row.reader == "client" and row.kind.name == "BROADCAST":
        found["accept"] = list(row.accept)
    if row.start is not None:
        found["start"] = folder.values(f"refused/{row.name}.start.f32", row.start)
    return found | ({"limits": row.limits} if row.limits else {})
