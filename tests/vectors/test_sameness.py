"""A model whose vectors do not tell texts apart: refused by the plan, and before readers move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import DataError, RequestError
from airflow_reindex.vectors.cutover.sameness import words_of
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings
from airflow_reindex.vectors.model.collection import Vectors
from airflow_reindex.vectors.stores.pgvector.schema import Names
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from tests.support.collection_contents import follower
from tests.support.reindex import DIMENSIONS, NEW, PART, Admin, Factory, make_source, rows_of, spec_of, texts

Embed = Callable[[str, list[str]], Vectors]

BLUE = {"deploy_as_blue": True, "alias": "products"}


def reading(look: Callable[[str], str]) -> Embed:
    """A model that sees of a text what a function leaves of it."""
    return lambda model, given: hash_vectors(model, list(map(look, given)), DIMENSIONS[model])


def constant(_: str) -> str:
    return "whatever"


def cut(characters: int) -> Callable[[str], str]:
    return lambda text: text[:characters]


def bag(text: str) -> str:
    return " ".join(words_of(text))


def long_rows(count: int, alike: int) -> dict[str, dict[str, str]]:
    """Texts of 190 characters or so, the first of which are alike but for their ends."""
    rows = texts(count)
    for place, row in enumerate(rows.values()):
        begin = "the same words" if place < alike else row["text"]
        row["text"] = f"{begin} {'and so on ' * 15}until {row['text']}"
    return rows


def test_the_same_vector_for_all(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, texts(20))
    server.embed = reading(constant)
    run = reindex(**BLUE)
    with pytest.raises(RequestError, match="answers of model 'new_model' do not depend on the text"):
        run.plan()
    assert admin.execute("SELECT to_regclass('dbo_new_model'), to_regnamespace('airflow_reindex')").fetchone() == (
        None,
        None,
    ), "nothing was touched"


def test_the_same_vector_for_all_after_the_plan(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, texts(276))
    run = reindex(batch_size=300, max_failed=0, **BLUE)
    run.plan()
    server.embed = reading(constant)
    run.windows()
    with pytest.raises(DataError, match=r"276 of 276 vectors of the destination 'new_model' belong to .*'o000000' and"):
        run.verify()
    report = run.report()
    assert report["status"] == "failed"
    assert "max_same_vectors=0.01" in report["detail"]
    assert follower(run) == "", "readers stay where they are"


def test_a_server_that_cuts_its_input(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, texts(20))
    server.embed = reading(cut(150))
    with pytest.raises(RequestError, match=f"two parts of {PART} characters.*it reads about 1[45]. characters.*split"):
        reindex().plan()
    assert admin.execute("SELECT to_regclass('dbo_new_model')").fetchone() == (None,)
    for small in (1, 20, 100, 150):
        run = reindex(f"small-{small}", force_takeover=True)
        run.part = small
        run.plan()


@pytest.mark.parametrize("server_cuts", ["prefix", "end"])
def test_texts_that_differ_later(admin: Admin, reindex: Factory, server: EmbeddingServer, server_cuts: str) -> None:
    """50 of 276 texts have one beginning, or one end; the server begins to cut after the plan has asked it."""
    rows = long_rows(276, 50)
    make_source(admin, rows)
    run = reindex(batch_size=300, **BLUE)
    run.plan()
    server.embed = reading(cut(100)) if server_cuts == "prefix" else reading(lambda text: text[-170:-20])
    run.windows()
    with pytest.raises(DataError, match=r"(50|2..) of 276 vectors .* belong to several"):
        run.verify()
    assert run.report()["status"] == "failed"
    assert follower(run) == ""
    # Mended at the server; vectors of before are made anew by another part size.
    server.embed = None
    # A graph whose nodes were hundreds of equal vectors, now dead, may find too little.
    admin.execute(f"DROP INDEX {Names(NEW).index_name}")
    again = reindex("again", batch_size=300, force_takeover=True, **BLUE)
    again.part = 199
    assert again.run()["status"] == "done"
    assert follower(again) == NEW


def test_what_is_allowed(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, long_rows(40, 8))
    server.embed = reading(cut(150))
    with pytest.raises(RequestError):
        reindex(max_same_vectors=0.9).plan()
    report = reindex(max_same_vectors=1).run()
    assert report["status"] == "done"
    same = report["notes"]["same_vectors"]
    assert (same["parts"], same["share"]) == (8, 0.2)
    assert same["examples"] == [["o000000", "o000007"]]


def test_two_of_many_are_told_only(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    make_source(admin, texts(40))
    server.embed = reading(lambda text: text.replace("number 7", "number 8"))
    report = reindex().run()
    assert (report["status"], report["notes"]["same_vectors"]["parts"]) == ("done", 2)
    run = reindex("strict", max_same_vectors=0, force_takeover=True)
    with pytest.raises(DataError, match="2 of 40 vectors"):
        run.run()


def test_texts_that_are_alike(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """Equal texts have equal vectors; and to some models case, accents, blanks, signs and order are nothing."""
    alike = ["Größe: red shirt", "größe  red shirt!", "Grosse, RED shirt", "shirt (red) grösse"]
    rows: dict[str, Any] = {**texts(20), **{f"a{place}": {"text": text} for place, text in enumerate(alike)}}
    rows |= {f"b{place}": {"text": "the very same"} for place in range(30)}
    make_source(admin, rows)
    server.embed = reading(bag)
    report = reindex().run()
    assert report["status"] == "done"
    assert "same_vectors" not in report["notes"]


def test_what_others_wrote_is_not_compared(admin: Admin, reindex: Factory) -> None:
    """The text of a row that somebody else wrote to the destination is unknown."""
    make_source(admin, texts(20))
    reindex().run()
    admin.execute("UPDATE dbop_new_model SET vector = (SELECT vector FROM dbop_new_model LIMIT 1)")
    admin.execute("UPDATE dbo_new_model SET payload = payload || '{\"theirs\": 1}' WHERE object_id > 'o000000'")
    report = reindex("second", writes_go_to="dest", force_takeover=True).run()
    assert report["status"] == "done"


def test_a_model_that_refuses_long_parts_charges_them(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """It says so, and does not cut: items of that length are listed, the plan only warns."""
    make_source(admin, {**texts(10), "long": {"text": "house " * 32}})
    server.faults += [Fault(contains="house house", status=413), Fault(contains="two windows", status=413)]
    run = reindex()
    assert run.run()["status"] == "done"
    assert run.failed() == {"long": "on_inference"}


def test_a_server_that_computes_with_few_bits(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """Its vectors differ a little from place to place; one that cuts is still found, one that does not still runs."""
    make_source(admin, texts(20))
    noise = np.random.default_rng(1)

    def noisy(embed: Embed) -> Embed:
        return lambda model, given: np.asarray(
            (found := embed(model, given)) * (1 + noise.normal(scale=1e-3, size=found.shape)), np.float32
        )

    server.embed = noisy(reading(str))
    assert reindex().run()["status"] == "done"
    run = reindex("second", force_takeover=True)
    run.loader = PayloadLoader(PayloadSettings(fields=("text",)))
    server.embed = reading(cut(150))
    with pytest.raises(RequestError, match="cuts its input"):
        run.plan()


NONSENSE = {"float16": "<f2", "float64": "<f8"}


@pytest.mark.parametrize("kind", NONSENSE.values(), ids=NONSENSE.keys())
@pytest.mark.parametrize("follow", [False, True], ids=["as it is", "with the dimensions of old advice"])
def test_numbers_of_another_width(
    admin: Admin, reindex: Factory, server: EmbeddingServer, kind: str, follow: bool
) -> None:
    make_source(admin, texts(20))
    server.base64 = kind
    length = DIMENSIONS[NEW] * np.dtype(kind).itemsize // 4 if follow else DIMENSIONS[NEW]
    run = reindex(**BLUE)
    run.specs[NEW] = spec_of(NEW, server, options={"encoding_format": "base64"}, dimensions=length)
    words = "numbers of another width.*encoding_format' to 'float'"
    with pytest.raises(RequestError, match=words) as caught:
        run.plan()
    assert "'dimensions'" not in str(caught.value)
    run.specs[NEW] = spec_of(NEW, server)
    assert run.run()["status"] == "done"
    assert rows_of(admin, NEW).keys() == texts(20).keys()
