"""Results that one can read: run folders -> records in a few kilobytes -> tables and figures of Markdown pages.

A *store* is a folder: `records/NAME.json`, one file a table's worth of runs; pages, with marks where tables and figures
go; `tables.toml`, which says what each mark shows. `write_results` does all of it again from the records.
"""

from fedmrn.results.importing import import_runs
from fedmrn.results.pages import write_results
from fedmrn.results.records import Collection, read_collection, write_collection

__all__ = ["Collection", "import_runs", "read_collection", "write_collection", "write_results"]
