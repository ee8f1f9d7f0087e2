"""The same queries put to both models: what they have in common, and how long they take."""

from __future__ import annotations

from airflow_reindex.vectors import steps
from airflow_reindex.vectors.cutover.comparison import QUALITY
from tests.support.reindex import NEW, OLD, Admin, Factory, make_source, texts


def test_side_by_side(admin: Admin, reindex: Factory) -> None:
    make_source(admin, texts(40))
    # The source gets vectors of its own by a run in the other direction.
    first = reindex()
    first.run()
    admin.execute("DROP TABLE dbop_old_model, dbo_old_model")
    back = reindex("back", source_embedding_model_id=NEW, dest_embedding_model_id=OLD)
    run = reindex("compared")
    for later in (back, run):
        later.states |= {("reindex_collection", name): "success" for name in ("run", "back")}
    back.run()
    run.plan()
    run.windows()
    with run.tools() as tools:
        result = steps.verify(
            tools, run.folder, run.owner, least_recall=0.9, queries=["text number 7", "text number 30"]
        )
    quality = result["quality"]
    assert quality["queries"] == 2
    assert 0 < quality["overlap_at_10"] < 1, "vectors of hashes have little in common but the text itself"
    assert quality["old"].keys() == quality["new"].keys() == {"embed_ms", "search_ms"}
    first_query = run.folder.read_json(QUALITY)[0]
    assert first_query["query"] == "text number 7"
    assert first_query["old"][0] == first_query["new"][0] == "o000007"
    assert len(first_query["new"]) == 10
