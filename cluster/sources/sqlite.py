"""SQLite: rows of a table or a query, streamed from a database that is opened for reading only.

A source is `sqlite:///path.db?table=NAME` or `sqlite:///path.db?query=SELECT …`; four slashes for
an absolute path, as SQLAlchemy has it, or three where there is no such relative one. A database
with a single table may be named by its path. Rows come by rowid, those of a query as it says: a
build that is resumed needs them in the same order.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from bitsift.cluster.sources.plan import SourceFile
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, TOO_LONG, DamagedStream
from bitsift.errors import InvalidRequest

PREFIX = "sqlite:"
FORM = "sqlite:///path.db?table=NAME or sqlite:///path.db?query=SELECT …"
ENDINGS = (".db", ".sqlite", ".sqlite3")
_UUID_BYTES = 16
_NUMBER_BYTES = 8


class Row(NamedTuple):
    """One row of a database, or the reason why there is none."""

    fields: dict[str, Any] | None
    reason: str | None
    size_bytes: int


class _NotUtf8:
    """In the place of a text that cannot be read."""


@dataclass(frozen=True)
class Database:
    """A file, and what is read of it: a `table`, or a `query`."""

    file: str
    table: str | None = None
    query: str | None = None

    @classmethod
    def parse(cls, source: str) -> Database:
        """What a source names. Raises InvalidRequest, which lists the tables there are."""
        if not source.startswith(PREFIX):
            found = cls(source)
            return cls(source, found._only_table())
        path, _, what = source.removeprefix(PREFIX).partition("?")
        if not path.startswith("///"):
            raise InvalidRequest(f"{source}: a database is named as {FORM}")
        path = unquote(path.removeprefix("///"))
        if not os.path.exists(path) and os.path.exists(f"/{path}"):
            path = f"/{path}"
        found = cls(os.path.abspath(os.path.expanduser(path)))
        key, _, value = what.partition("=")
        if key == "query" and value:
            encoded = not any(letter.isspace() for letter in value)
            return cls(found.file, query=unquote(value) if encoded else value)
        if key == "table" and value:
            return cls(found.file, table=unquote(value))
        if what:
            raise InvalidRequest(f"{source}: after ? comes table=NAME or query=SELECT …")
        return cls(found.file, found._only_table())

    def __str__(self) -> str:
        """The source again, with an absolute path."""
        what = f"table={quote(self.table)}" if self.table else f"query={quote(self.query or '')}"
        return f"{PREFIX}///{quote(self.file)}?{what}"

    def _only_table(self) -> str:
        tables = self.tables()
        if len(tables) != 1:
            listed = ", ".join(tables) or "none"
            raise InvalidRequest(
                f"{self.file} has {len(tables)} tables ({listed}): name one, as {FORM}"
            )
        return tables[0]

    def tables(self) -> list[str]:
        """The names of its tables and views. Raises InvalidRequest where it is no database."""
        sql = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
        with _reading(self.file), _opened(self.file) as connection:
            names = [str(name) for (name,) in connection.execute(sql)]
        return [name for name in names if not name.startswith("sqlite_")]

    @contextlib.contextmanager
    def cursor(self) -> Iterator[sqlite3.Cursor]:
        """Its rows, in order. Raises InvalidRequest where there are none to be had."""
        with _opened(self.file) as connection:
            with _reading(self.file):
                if self.query is not None:
                    cursor = connection.execute(self.query)
                else:
                    cursor = self._rows_of_table(connection)
            if cursor.description is None:
                raise InvalidRequest(f"{self.file}: the query gives no rows: {self.query}")
            yield cursor

    def _rows_of_table(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        assert self.table is not None
        tables = self.tables()
        if self.table not in tables:
            listed = ", ".join(tables) or "none"
            raise InvalidRequest(f"{self.file} has no table {self.table!r}; tables: {listed}")
        name = '"' + self.table.replace('"', '""') + '"'
        try:
            return connection.execute(f"SELECT * FROM {name} ORDER BY _rowid_")
        except sqlite3.OperationalError:  # a view, or a table that has its primary key only
            return connection.execute(f"SELECT * FROM {name}")


def rows_of_database(file: SourceFile) -> Iterator[Row]:
    """The rows of a planned table or query. Raises InvalidRequest, DamagedStream."""
    database = Database.parse(file.path)
    with database.cursor() as cursor:
        names = [column[0] for column in cursor.description]
        if len(set(names)) != len(names):
            raise InvalidRequest(f"{file.path} names a column twice: {', '.join(names)}")
        number = 0
        try:
            for values in cursor:
                yield _row(file, names, values)
                number += 1
        except sqlite3.Error as error:
            damage = DamagedStream(f"the database cannot be read any further: {error}")
            damage.line = number + 1
            raise damage from error


def _row(file: SourceFile, names: list[str], values: tuple[Any, ...]) -> Row:
    size = sum(len(v) if isinstance(v, str | bytes) else _NUMBER_BYTES for v in values)
    if size > LINE_BYTES_MAX:
        return Row(None, TOO_LONG, size)
    wanted = {name: role for role, name in file.fields.named()}
    fields = {}
    for name, value in zip(names, values, strict=True):
        role = wanted.get(name)
        if isinstance(value, bytes) and role in ("id", "title", "text"):
            value = _id(value) if role == "id" else _text(value)
        if value is _NotUtf8:
            return Row(None, f"invalid UTF-8 in field {name!r}", size)
        if value is not None or role is not None:
            fields[name] = value
    return Row(fields, None, size)


def _id(value: bytes) -> str:
    return str(uuid.UUID(bytes=value)) if len(value) == _UUID_BYTES else value.hex()


def _text(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _NotUtf8


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, and no other file."""
    if not os.path.isfile(path):
        raise InvalidRequest(f"{path} does not exist")
    with _reading(path):
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)
        connection.execute("PRAGMA trusted_schema=OFF")  # a stranger's views call nothing unsafe
    with contextlib.closing(connection):
        connection.text_factory = _text
        connection.set_authorizer(_authorized)
        yield connection


_ALLOWED = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)


def _authorized(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise InvalidRequest(f"{path} cannot be read as an SQLite database: {error}") from error


def not_read(paths: Collection[str]) -> dict[str, str]:
    """The databases in a folder that are not read, and why: path and reason."""
    reasons = {}
    for path in paths:
        try:
            Database.parse(path)
        except InvalidRequest as error:
            reasons[path] = error.message.removeprefix(f"{path} ")
    return reasons
