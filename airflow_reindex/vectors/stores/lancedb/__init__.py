"""
Collections in LanceDB: in a folder, or in a bucket of an object store.

A collection is one table. Its name is the collection's id, with what LanceDB does not allow in names escaped. It has
one row for each part of an object and one for the object's average:

============  ==================================  ==========================================================
column        type                                what it holds
============  ==================================  ==========================================================
part_id       string                              unique
object_id     string                              the object that the row belongs to
vector        fixed_size_list<float>[dimensions]  the part's vector, or the object's average
is_average    bool                                whether the row is the object's average
user_id       string                              whose it is; NULL for all
original_id   string                              of a user's copy, on each of its rows: the object it is a copy of
payload       string                              JSON; on the average's row
storage_meta  string                              JSON that says where the content lies; on the average's row
session_id    string                              on the average's row
============  ==================================  ==========================================================

An object is there when its average's row is. A source that was made by others needs these columns, too.

What belongs to this package lies beside it: for each destination a table ``_reindex_marks.<name>``, and one table
``_reindex_registry`` with claims, aliases and notes on collections. Applications that follow an alias read it there::

    document = database.open_table("_reindex_registry").to_arrow()["document"][0].as_py()
    json.loads(document)["aliases"]["my-alias"]["collection_id"]
"""

from __future__ import annotations

from airflow_reindex.vectors.stores.lancedb.store import LanceStore

__all__ = ["LanceStore"]
