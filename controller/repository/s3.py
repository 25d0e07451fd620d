"""A repository kept in S3 or what speaks its language, through `obstore`.

Credentials, region and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`), from the profile in `~/.aws` where the environment has none, or
from the machine's role.
Needs a service with conditional writes (`If-None-Match: *` and `If-Match` on PUT), as S3 has had since 2024.
"""

import configparser
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import S3Store

from controller.repository.blobs import Blob, too_large
from controller.repository.storage_paths import caching
from schemas.errors import OperatorError, one_line

_TIMEOUT_S: Final = 60
"""For one request; a part of a large file is one."""
_CONNECT_S: Final = 10
_RETRIES: Final = 4
_RETRY_S: Final = 60
_AT_ONCE: Final = 1000
"""Most keys that S3 deletes in one request."""
_PIECE: Final = 1024 * 1024

_FROM_PROFILE: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region", "endpoint_url")


class S3Blobs:
    """A `BlobStore` below a prefix of a bucket.

    Args:
        url: how messages call it.
    """

    def __init__(self, url: str, *, bucket: str, prefix: str) -> None:
        self._url = url
        options = aws_profile(os.environ)
        plain = (options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://")
        with self._errors():
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                config=options,  # type: ignore[arg-type]  # the keys are of those that it knows
                client_options={
                    "timeout": timedelta(seconds=_TIMEOUT_S),
                    "connect_timeout": timedelta(seconds=_CONNECT_S),
                    "allow_http": plain,
                },
                retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
            )

    def get(self, key: str, limit: int) -> tuple[bytes, str] | None:
        """See `BlobStore`."""
        with self._errors():
            try:
                found = self._store.get(key)
            except (FileNotFoundError, NotFoundError):
                return None
            if found.meta["size"] > limit:
                raise too_large(key, limit)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def read(self, key: str) -> Iterator[bytes]:
        """See `BlobStore`."""
        with self._errors():
            try:
                found = self._store.get(key)
            except (FileNotFoundError, NotFoundError):
                found = None
            if found is not None:
                for piece in found.stream(min_chunk_size=_PIECE):
                    yield bytes(piece)
                return
        raise FileNotFoundError(key)

    def put(self, key: str, content: bytes | Path) -> None:
        """See `BlobStore`."""
        with self._errors():
            self._store.put(key, content, attributes=_attributes(key))

    def put_new(self, key: str, content: bytes) -> str | None:
        """See `BlobStore`."""
        with self._errors(), suppress(AlreadyExistsError):
            return self._put_if(key, content, "create")
        return None

    def put_over(self, key: str, content: bytes, tag: str) -> str | None:
        """See `BlobStore`."""
        with self._errors(), suppress(PreconditionError, FileNotFoundError, NotFoundError):
            return self._put_if(key, content, {"e_tag": tag})
        return None

    def list(self) -> Iterator[Blob]:
        """See `BlobStore`."""
        with self._errors():
            for page in self._store.list():
                for found in page:
                    yield Blob(key=found["path"], size=found["size"], modified=found["last_modified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """See `BlobStore`."""
        left = list(keys)
        while left:
            now, left = left[:_AT_ONCE], left[_AT_ONCE:]
            with self._errors(), suppress(FileNotFoundError, NotFoundError):
                self._store.delete(now)

    def _put_if(self, key: str, content: bytes, mode: Any) -> str:
        # in one request: a condition on a put in parts is checked when others may have been told already
        done = self._store.put(key, content, mode=mode, attributes=_attributes(key), use_multipart=False)
        return done["e_tag"] or ""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise OperatorError("storage.unreachable", f"{self._url}: {_reason(error)}") from error


def aws_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """What `~/.aws` says for the profile, where the environment has no keys; empty otherwise."""
    if "AWS_ACCESS_KEY_ID" in environment:
        return {}
    home = Path(environment.get("HOME", "/nonexistent"))
    profile = environment.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    for path, section in (
        (Path(environment.get("AWS_CONFIG_FILE", home / ".aws/config")), f"profile {profile}"),
        (Path(environment.get("AWS_SHARED_CREDENTIALS_FILE", home / ".aws/credentials")), profile),
    ):
        parser = configparser.ConfigParser(interpolation=None)
        with suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read_string(path.read_text())
            name = section if parser.has_section(section) else profile
            if parser.has_section(name):
                found.update({key: parser[name][key] for key in _FROM_PROFILE if key in parser[name]})
    return found


def _attributes(key: str) -> Any:
    return {"Cache-Control": caching(key), "Content-Type": "application/octet-stream"}


def _reason(error: BaseException) -> str:
    """The first line of what went wrong. What the library prints after it is its own inner value."""
    text = str(error).partition("\n")[0].partition("Debug source")[0]
    return one_line(text, 300)
