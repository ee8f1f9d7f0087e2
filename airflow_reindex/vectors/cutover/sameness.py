"""Check that vectors distinguish texts: compares the texts of parts whose vectors are equal."""

from __future__ import annotations

import logging
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from airflow_reindex.core.failures import DataError
from airflow_reindex.vectors.model.loader import Content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_reindex.vectors.sync.session import Session

log = logging.getLogger(__name__)

#: Pairs of parts with equal vectors whose texts are compared.
PAIRS = 200
#: Up to this number of vectors shared by different texts is accepted, unless the limit is 0.
FEW = 2


def check_sameness(at: Session, most: float) -> dict[str, Any]:
    """
    Count the vectors that belong to several clearly different texts.

    All vectors are compared, and the texts of a sample of the pairs that share one. Case, accents, whitespace,
    punctuation and word order are ignored, as some models ignore them.

    :param most: the largest accepted share of parts with such a vector.
    :returns: ``parts`` (their number, extrapolated), ``share``, ``examples`` (pairs of objects); empty when there are
        none.
    :raises DataError: the share is larger.
    """
    twins = at.dest.twins(PAIRS)
    words = _words_of(at, sorted({part for _, *pair in twins.pairs for part in pair}))
    known = [pair for pair in twins.pairs if pair[1] in words and pair[2] in words]
    wrong = [pair for pair in known if words[pair[1]] != words[pair[2]]]
    if not wrong:
        return {}
    rest = twins.shared - sum(count for count, *_ in known)
    parts = sum(count for count, *_ in wrong) + round(rest * len(wrong) / len(known))
    share = parts / twins.parts
    examples = [[one[1], other[1]] for _, one, other in wrong[:5]]
    message = (
        f"{parts:,} of {twins.parts:,} vectors of the destination '{at.plan.dest.collection_id}' belong to several "
        f"texts that are clearly different, such as those of the items "
        f"{', '.join(f'{one!r} and {other!r}' for one, other in examples)}"
    )
    if share > most and parts > (FEW if most else 0):
        raise DataError(
            f"{message}: that is more than max_same_vectors={most:g} allows. The model does not read all of a text: "
            "look at its server, and whether it cuts its input (then set fewer 'characters' in the loader's 'split'); "
            "or allow more in a new run."
        )
    log.warning("%s", message)
    return {"parts": parts, "share": round(share, 6), "examples": examples}


def _words_of(at: Session, parts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """Return the words of parts by part id and object id, where the current text is still the one that was embedded."""
    keys = sorted({object_id for _, object_id in parts})
    if not keys:
        return {}
    states = at.dest.states(None, None, keys)
    items = [
        item
        for item in at.source.items(keys)
        if (state := states.get(item.object_id)) and state.sync and state.row == state.sync.version == item.version
    ]
    pipeline = at.context.pipeline
    texts: dict[str, list[str]] = {}
    for item, content in zip(items, pipeline.loader.load(items), strict=True):
        # Content outside of the row may have changed since.
        sync = states[item.object_id].sync
        if isinstance(content, Content) and sync and sync.content == content.version:
            texts[item.object_id] = pipeline.splitter.split(content.text)
    found = {}
    for part_id, object_id in parts:
        number = part_id.rpartition(":")[2]
        if number.isdecimal() and int(number) < len(texts.get(object_id, ())):
            found[part_id, object_id] = words_of(texts[object_id][int(number)])
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and accents, sorted."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return sorted(re.findall(r"\w+", "".join(char for char in plain if not unicodedata.combining(char))))
