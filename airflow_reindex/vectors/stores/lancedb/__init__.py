"""
Collections in LanceDB: in a folder, or in a bucket of an object store.

A collection is one table, named by the collection's id with unsupported characters escaped. It has one row for each
part of an object and one for the object's average:

============  ==================================  ==========================================================
column        type                                content
============  ==================================  ==========================================================
part_id       string                              unique
object_id     string                              the object that the row belongs to
vector        fixed_size_list<float>[dimensions]  the part's vector, or the object's average
is_average    bool                                whether the row is the object's average
user_id       string                              the owner; NULL for all users
original_id   string                              on all rows of a user's copy: the object that it copies
payload       string                              JSON; on the average's row
storage_meta  string                              JSON that says where the content is; on the average's row
session_id    string                              on the average's row
============  ==================================  ==========================================================

An object exists when its average's row does. A source made by other software needs these columns, too.

This package's own tables are beside it: ``_reindex_marks.<name>`` for each destination, and ``_reindex_registry`` with
claims, aliases and notes on collections. Applications that follow an alias read it there::

    document = database.open_table("_reindex_registry").to_arrow()["document"][0].as_py()
    json.loads(document)["aliases"]["my-alias"]["collection_id"]
"""

from __future__ import annotations

from airflow_reindex.vectors.stores.lancedb.store import LanceStore

__all__ = ["LanceStore"]
