"""Contents that are objects in S3 or a compatible server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import botocore.exceptions as boto

from airflow_reindex.core.failures import Code, DataError, RequestError, TransientError
from airflow_reindex.vectors.embedding.loaders.payload import lookup, text_of
from airflow_reindex.vectors.embedding.loaders.settings import S3Settings, config_text
from airflow_reindex.vectors.model.collection import Item
from airflow_reindex.vectors.model.loader import Content

A = TypeVar("A")

_MISSING = {"NoSuchKey", "NoSuchVersion"}
_CREDENTIALS = {
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NotSignedUp",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_BUSY = {"RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException"}
#: An interrupted body is not covered by botocore's own retries, which end with the headers.
_BODY_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _Place:
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class _Object:
    place: _Place
    data: bytes
    tag: str


class _RefusedError(DataError):
    """One object was refused: its own failure if others are read, the deployment's if all of several are refused."""


class S3Loader:
    """
    Gets objects, several at a time.

    :param client: boto3's S3 client, with its own retries; used from several threads.
    :raises RequestError: the settings contradict each other.
    """

    outside = True

    def __init__(self, settings: S3Settings, client: Any) -> None:
        try:
            io.TextIOWrapper(io.BytesIO(), settings.encoding)
        except LookupError as error:
            raise RequestError(f"'encoding' must be the name of an encoding, not '{settings.encoding}'.") from error
        if settings.concurrency < 1 or settings.max_bytes < 1:
            raise RequestError("'concurrency' and 'max_bytes' must be at least 1.")
        own = (settings.bucket,) if settings.bucket else None
        self._buckets = own if settings.buckets is None else settings.buckets
        if self._buckets is not None and settings.bucket and settings.bucket not in self._buckets:
            raise RequestError(f"'buckets' lacks the default bucket '{settings.bucket}'.")
        self._settings = settings
        self._client = client
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="s3-loader")
        self.config = config_text("s3", settings, without=("buckets", "concurrency", "max_bytes"))

    def load(self, items: Sequence[Item]) -> list[Content | DataError]:
        """
        Get each item's object; a content's version is its ETag.

        :raises RequestError: credentials or buckets are wrong.
        :raises TransientError: S3 is away or busy.
        """
        answers = self._answers(items, self._get)
        return [
            answer if isinstance(answer, DataError) else self._content(item, answer)
            for item, answer in zip(items, answers, strict=True)
        ]

    def versions(self, items: Sequence[Item]) -> list[str | DataError]:
        """Ask for ETags; raises like :meth:`load`."""
        return self._answers(items, self._head)

    def _answers(self, items: Sequence[Item], fetch: Callable[[_Place], A]) -> list[A | DataError]:
        places = [self._place(item) for item in items]
        answers = self._fetch(list(dict.fromkeys(place for place in places if isinstance(place, _Place))), fetch)
        return [place if isinstance(place, DataError) else answers[place] for place in places]

    def _place(self, item: Item) -> _Place | DataError:
        meta = item.storage_meta
        if not isinstance(meta, dict):
            return DataError("the storage metadata is NULL." if meta is None else "the storage metadata is no object.")
        key = lookup(meta, self._settings.key_field)
        if key is None:
            key = meta.get("key")
        if not isinstance(key, str) or not key:
            return DataError(f"the storage metadata has no text in '{self._settings.key_field}'.")
        bucket = lookup(meta, self._settings.bucket_field)
        if bucket is None:
            bucket = self._settings.bucket
        if not isinstance(bucket, str) or not bucket:
            return DataError(f"the storage metadata has no text in '{self._settings.bucket_field}'.")
        if self._buckets is not None and bucket not in self._buckets:
            return DataError(f"the bucket '{bucket}' is not among those of the loader: {', '.join(self._buckets)}.")
        return _Place(bucket, key)

    def _fetch(self, places: list[_Place], fetch: Callable[[_Place], A]) -> dict[_Place, A | DataError]:
        futures = {place: self._pool.submit(self._ask, place, fetch) for place in places}
        try:
            answers = {place: future.result() for place, future in futures.items()}
        finally:
            for future in futures.values():
                future.cancel()
        refused = [answer for answer in answers.values() if isinstance(answer, _RefusedError)]
        if len(refused) > 1 and len(refused) == len(answers):
            raise RequestError(f"all {len(refused)} objects of a batch were refused, the first: {refused[0]}")
        return answers

    def _ask(self, place: _Place, fetch: Callable[[_Place], A]) -> A | DataError:
        try:
            return fetch(place)
        except DataError as error:
            return error
        except boto.ClientError as error:
            return self._judge(place, error)
        except boto.ParamValidationError as error:
            return _RefusedError(f"{place} cannot be asked for: {error}")
        except (boto.ConnectionError, boto.HTTPClientError) as error:
            raise TransientError(f"{place} could not be reached: {error}", code=Code.CONNECTION) from error
        except boto.BotoCoreError as error:
            raise RequestError(f"{place} cannot be asked for with '{self._settings.aws_conn_id}': {error}") from error

    def _judge(self, place: _Place, error: boto.ClientError) -> DataError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING:
            return DataError(f"there is no object {place}.")
        if code in _CREDENTIALS:
            raise RequestError(
                f"S3 does not accept the credentials of '{self._settings.aws_conn_id}': {error}", code=Code.ACCESS
            )
        if code in _BUSY or status == 429 or status >= 500:
            raise TransientError(f"S3 is busy or away: {error}")
        if code == "NoSuchBucket" and self._buckets is not None:
            raise RequestError(f"there is no bucket '{place.bucket}', which the loader names.")
        if code == "NoSuchBucket":
            return _RefusedError(f"there is no bucket for {place}.")
        return _RefusedError(f"S3 refuses {place}: {error}")

    def _get(self, place: _Place) -> _Object:
        for _ in range(_BODY_ATTEMPTS):
            answer = self._client.get_object(Bucket=place.bucket, Key=place.key)
            size, most = answer["ContentLength"], self._settings.max_bytes
            with closing(answer["Body"]) as body:
                if size > most:
                    raise DataError(f"{place} has {size} bytes, more than 'max_bytes' ({most}).")
                try:
                    return _Object(place, body.read(), _tag(answer))
                except (boto.ReadTimeoutError, boto.ResponseStreamingError, boto.IncompleteReadError) as error:
                    broken = error
        raise TransientError(f"{place} breaks off: {broken}", code=Code.CONNECTION) from broken

    def _head(self, place: _Place) -> str:
        try:
            return _tag(self._client.head_object(Bucket=place.bucket, Key=place.key))
        except boto.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 403, 404):
                raise
            # A HEAD answer has no body, so it does not tell whether object, bucket or credentials are the cause; a GET
            # does.
            answer = self._client.get_object(Bucket=place.bucket, Key=place.key, Range="bytes=0-0")
            answer["Body"].close()
            return _tag(answer)

    def _content(self, item: Item, answer: _Object) -> Content | DataError:
        try:
            text = answer.data.decode(self._settings.encoding).removeprefix("\ufeff")
            if (fields := self._settings.json_fields) is not None:
                text = _json_text(text, answer.place, item.storage_meta, fields)
        except UnicodeError as error:
            return DataError(f"{answer.place} is no text in {self._settings.encoding}: {error}.")
        except DataError as error:
            return error
        return Content(text, answer.tag)


def _tag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')


def _json_text(text: str, place: _Place, meta: Any, fields: Sequence[str]) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON: {error}.") from error
    index = meta.get("index")
    if isinstance(value, list) and isinstance(index, int):
        if not 0 <= index < len(value):
            raise DataError(f"{place} has {len(value)} elements, none with the index {index}.")
        value = value[index]
    return text_of(value, str(place), fields)
