"""Bad items: each fails alone, at the right stage, is listed once and is not in the destination; all others land."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.embedding.loaders.payload import PayloadLoader
from airflow_reindex.vectors.embedding.loaders.s3 import S3Loader
from airflow_reindex.vectors.embedding.loaders.settings import PayloadSettings, S3Settings
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.loader import Content
from airflow_reindex.vectors.model.splitting import Splitter
from sandbox.servers.embedding_answers import hash_vectors
from sandbox.servers.embedding_server import EmbeddingServer, Fault
from sandbox.servers.objects import ObjectStore
from tests.support.reindex import DIMENSIONS, NEW, OLD, Admin, Factory, Reindex, make_source, rows_of, texts

BAD, ITS_TEXT = "o000005", "text number 5"
_BUCKETS = (f"bad-items-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@dataclass(frozen=True)
class Kind:
    """
    A way for an item to be bad.

    :param stage: where it fails.
    :param words: what its detail must say.
    :param spoil: a statement that makes it bad.
    :param mend: a statement that mends it.
    :param fault: of the embedding server, for its text.
    :param body: of its object in S3; contents then come from there.
    """

    stage: str
    words: str
    spoil: str = ""
    mend: str = ""
    fault: Fault | None = None
    body: bytes | str | None = ""


def payload(value: str, words: str) -> Kind:
    change = f"UPDATE dbo_old_model SET payload = %s WHERE object_id = '{BAD}'"
    good = json.dumps({"text": ITS_TEXT})
    return Kind("on_downloading", words, change.replace("%s", value), change.replace("%s", f"'{good}'"))


def content(body: bytes | None, words: str, stage: str = "on_downloading") -> Kind:
    return Kind(stage, words, body=body)


def fault(words: str, **what: Any) -> Kind:
    return Kind("on_inference", words, fault=Fault(contains="number 5", **what))


KINDS = {
    "payload NULL": payload("NULL", "the payload is NULL"),
    "payload null": payload("'null'", "the payload is NULL"),
    "payload a list": payload("'[1]'", "the payload is no JSON object"),
    "payload without text": payload("'{}'", "the payload has no field 'text'"),
    "payload with a number": payload("""'{"text": 5}'""", "the field 'text' of the payload holds no text, but int"),
    "payload blank": payload("""'{"text": " "}'""", "the payload has no text in text"),
    "object missing": content(None, f"there is no object s3://bad-items-.*/{BAD}"),
    "object no text": content(b"\xff\xfe\xfd", "is no text in utf-8"),
    "object too large": content(b"x" * 2000, "has 2000 bytes, more than 'max_bytes'"),
    "object empty": content(b"", "the text is empty", "on_splitting"),
    "object blank": content(b" \n ", "the text has only blanks", "on_splitting"),
    "model says 400": fault("answered 400: .*scripted", status=400),
    "model says 500": fault("answered 500: .*scripted", status=500),
    "model hangs up": fault("dropped the connection", drop=True),
    "model babbles": fault("an answer that cannot be used", body="[]"),
    "vector NaN": fault("has NaN or infinite numbers", vector="nan"),
    "vector null": fault("has NaN or infinite numbers", vector="null"),
    "vector zero": fault("is zero", vector="zero"),
    "vector short": fault("returned 4 numbers instead of 8", vector="short"),
    "store refuses": Kind(
        "on_upsert",
        'violates check constraint "no_fives"',
        "ALTER TABLE dbo_new_model ADD CONSTRAINT no_fives CHECK (payload::text NOT LIKE '%number 5%') NOT VALID",
        "ALTER TABLE dbo_new_model DROP CONSTRAINT no_fives",
    ),
    "a user's copy has its id": Kind(
        "on_upsert",
        f"object '{BAD}': a user's copy of another object has this id",
        f"INSERT INTO dbo_new_model (object_id, original_id, user_id) VALUES ('{BAD}', 'another', 'somebody')",
        f"DELETE FROM dbo_new_model WHERE object_id = '{BAD}'",
    ),
}


class Trouble:
    """Makes a kind of trouble for one item, and mends it."""

    def __init__(self, kind: Kind, admin: Admin, server: EmbeddingServer, objects: ObjectStore) -> None:
        self.kind, self.admin, self.server, self.objects = kind, admin, server, objects
        self.bucket = next(_BUCKETS)
        self.outside = kind.body != ""
        if self.outside:
            objects.put(self.bucket, {key: row["text"] for key, row in texts(16).items()})

    def attend(self, run: Reindex) -> Reindex:
        """Let a run take contents from where this item's are."""
        if self.outside:
            run.loader = S3Loader(S3Settings(bucket=self.bucket, max_bytes=1000), self.objects.client())
        return run

    def begin(self) -> None:
        if self.kind.spoil:
            self.admin.execute(self.kind.spoil.encode())
        if self.kind.fault:
            self.server.faults.append(self.kind.fault)
        if isinstance(self.kind.body, bytes):
            self.objects.put(self.bucket, {BAD: self.kind.body})
        elif self.kind.body is None:
            self.objects.client().delete_object(Bucket=self.bucket, Key=BAD)

    def end(self) -> None:
        if self.kind.mend:
            self.admin.execute(self.kind.mend.encode())
        self.server.faults.clear()
        if self.outside:
            self.objects.put(self.bucket, {BAD: ITS_TEXT})


def parts_of(admin: Admin) -> dict[str, list[tuple[str, list[float], bool]]]:
    """Part ids, vectors and whether they are averages, in the order of their numbers, by object."""
    found: dict[str, list[tuple[str, list[float], bool]]] = {}
    rows = admin.execute(
        # "o1:10" comes after "o1:9", and an average last.
        "SELECT object_id, part_id, vector::text, is_average FROM dbop_new_model "
        "ORDER BY object_id, is_average, length(part_id), part_id"
    ).fetchall()
    for object_id, part_id, vector, average in rows:
        found.setdefault(object_id, []).append((part_id, json.loads(vector), average))
    return found


def finish(run: Reindex) -> dict[str, Any]:
    run.windows()
    run.verify()
    return run.report()


def check_all_but(admin: Admin, run: Reindex, report: dict[str, Any], stages: dict[str, str]) -> None:
    """Those have failed and are nowhere; all others are there, each with its own payload and vectors."""
    source = rows_of(admin, OLD)
    good = source.keys() - stages.keys()
    assert report["status"] == "done", report["detail"]
    assert (report["total"], report["count"], report["failed"]) == (len(source), len(good), len(stages))
    assert run.failed() == stages
    assert rows_of(admin, NEW) == {key: source[key] for key in good}
    assert parts_of(admin).keys() == good


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_one_of_sixteen(
    admin: Admin, reindex: Factory, server: EmbeddingServer, objects: ObjectStore, kind: Kind
) -> None:
    make_source(admin, texts(16))
    trouble = Trouble(kind, admin, server, objects)
    run = trouble.attend(reindex())
    run.plan()
    trouble.begin()
    report = finish(run)
    check_all_but(admin, run, report, {BAD: kind.stage})
    (failed,) = report["failed_items"]
    assert (failed["object_id"], failed["failure_stage"], failed["collection"]) == (BAD, kind.stage, OLD)
    assert failed["item_info"] == {"file": BAD}
    assert re.search(kind.words, failed["detail"])
    assert len(failed["detail"]) <= 1500
    trouble.end()
    second = trouble.attend(reindex("second", force_takeover=True))
    second.plan()
    report = finish(second)
    check_all_but(admin, second, report, {})
    assert report["notes"]["embedded"] == 1, "only the mended item"


LATER = ["payload NULL", "object missing", "object blank", "model says 400", "vector NaN", "store refuses"]


@pytest.mark.parametrize("name", LATER)
def test_an_item_that_has_landed_and_fails_now(
    admin: Admin, reindex: Factory, server: EmbeddingServer, objects: ObjectStore, name: str
) -> None:
    make_source(admin, texts(16))
    trouble = Trouble(KINDS[name], admin, server, objects)
    trouble.attend(reindex()).run()
    assert BAD in parts_of(admin)
    # Something else has changed in its row, so that it has to be embedded again.
    admin.execute(f"UPDATE dbo_old_model SET payload = payload || '{{\"n\": 1}}' WHERE object_id = '{BAD}'".encode())
    second = trouble.attend(reindex("second", force_takeover=True))
    second.plan()
    trouble.begin()
    check_all_but(admin, second, finish(second), {BAD: KINDS[name].stage})


def test_an_object_that_vanishes_while_its_row_stays_as_it_is(
    admin: Admin, reindex: Factory, server: EmbeddingServer, objects: ObjectStore
) -> None:
    make_source(admin, texts(16))
    trouble = Trouble(KINDS["object missing"], admin, server, objects)
    trouble.attend(reindex()).run()
    trouble.begin()
    second = trouble.attend(reindex("second", force_takeover=True))
    report = second.run()
    check_all_but(admin, second, report, {BAD: "on_downloading"})
    assert report["notes"]["embedded"] == 0


MIXED = {"refuse": 400, "hang": 500}
SPOILT = ("nan", "short", "zero")


def mixed_source(admin: Admin, bad: dict[int, str], count: int = 16) -> dict[str, str]:
    """Items some of whose texts hold a word that the server chokes on; the stages to expect."""
    rows: dict[str, Any] = texts(count)
    keys = list(rows)
    for place, word in bad.items():
        rows[keys[place]] = None if word == "none" else {"text": f"{word} {place}"}
    make_source(admin, rows)
    return {keys[place]: "on_downloading" if word == "none" else "on_inference" for place, word in bad.items()}


def choke(server: EmbeddingServer) -> None:
    server.faults += [Fault(contains=word, status=status) for word, status in MIXED.items()]
    server.faults += [Fault(contains=word, vector=word) for word in SPOILT]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({0: "refuse", 15: "refuse"}, id="first and last"),
        pytest.param({7: "refuse", 8: "refuse", 9: "refuse"}, id="adjacent"),
        pytest.param({6: "short", 7: "short"}, id="adjacent, of another length"),
        pytest.param({1: "none", 3: "refuse", 4: "hang", 5: "nan", 10: "short", 11: "zero"}, id="all kinds at once"),
        pytest.param(dict.fromkeys(range(1, 16), "refuse"), id="all but one"),
        pytest.param(dict.fromkeys(range(16), "refuse"), id="all refused"),
        pytest.param(dict.fromkeys(range(16), "short"), id="all of another length"),
        pytest.param(dict.fromkeys(range(16), "none"), id="all without content"),
    ],
)
def test_several(admin: Admin, reindex: Factory, server: EmbeddingServer, bad: dict[int, str]) -> None:
    stages = mixed_source(admin, bad)
    choke(server)
    run = reindex()
    check_all_but(admin, run, run.run(), stages)


def long_text(name: str, sentences: int) -> str:
    return " ".join(
        f"Sentence {number} of {name} has some words that make it rather long." for number in range(sentences)
    )


def test_every_part_is_in_its_place(admin: Admin, reindex: Factory, server: EmbeddingServer) -> None:
    """Long items whose parts fill several requests, between short and bad ones."""
    sentences = {0: 1, 1: 100, 2: 1, 3: 7, 4: 60, 5: 1, 6: 200, 7: 3}
    rows = {f"o{place}": {"text": long_text(f"o{place}", count)} for place, count in sentences.items()}
    rows["o4"]["text"] += " refuse " + long_text("the end", 30)
    rows["o7"]["text"] += " nan"
    choke(server)
    make_source(admin, rows)
    run = reindex(batch_size=5)
    check_all_but(admin, run, run.run(), {"o4": "on_inference", "o7": "on_inference"})
    found = parts_of(admin)
    for key in rows.keys() - {"o4", "o7"}:
        cut = Splitter(200).split(rows[key]["text"])
        wanted = hash_vectors(NEW, cut, DIMENSIONS[NEW])
        names = [f"{key}:{number}" for number in range(len(cut))]
        *parts, average = found[key]
        assert [(part_id, is_average) for part_id, _, is_average in parts] == [(name, False) for name in names]
        assert np.allclose([vector for _, vector, _ in parts], wanted)
        assert (average[0], average[2]) == (f"{key}:average", True)
        assert np.allclose(average[1], wanted.mean(axis=0), atol=1e-6), "the object's own average"


def test_a_long_detail_is_cut(admin: Admin, reindex: Factory) -> None:
    class Wordy(PayloadLoader):
        def load(self, items: Sequence[Item]) -> list[Content | DataError]:
            found = super().load(items)
            words = DataError("word " * 1000 + "at last")
            return [words if one.object_id == BAD else given for one, given in zip(items, found, strict=True)]

    make_source(admin, texts(16))
    run = reindex()
    run.loader = Wordy(PayloadSettings(fields=("text",)))
    report = run.run()
    check_all_but(admin, run, report, {BAD: "on_downloading"})
    detail = report["failed_items"][0]["detail"]
    assert len(detail) == 1500
    assert detail.endswith("word at last")


def test_what_writers_of_the_destination_did_is_no_failure(
    admin: Admin, reindex: Factory, server: EmbeddingServer, objects: ObjectStore
) -> None:
    """With ``writes_go_to=dest`` the source's row of an item that was removed or rewritten there means nothing."""
    make_source(admin, texts(16))
    trouble = Trouble(KINDS["object missing"], admin, server, objects)
    trouble.attend(reindex()).run()
    for table in ("dbop_new_model", "dbo_new_model"):
        admin.execute(f"DELETE FROM {table} WHERE object_id = '{BAD}'".encode())
    admin.execute("UPDATE dbo_new_model SET payload = '{}', storage_meta = NULL WHERE object_id = 'o000006'")
    trouble.objects.client().delete_objects(
        Bucket=trouble.bucket, Delete={"Objects": [{"Key": BAD}, {"Key": "o000006"}]}
    )
    trouble.objects.put(trouble.bucket, {"o000007": "a new text"})
    second = trouble.attend(reindex("second", force_takeover=True, writes_go_to="dest"))
    report = second.run()
    assert (report["status"], report["failed"], report["notes"]["embedded"]) == ("done", 0, 1)
    there = rows_of(admin, NEW)
    assert BAD not in there, "it must not come back"
    assert there["o000006"] == ({}, None)
