"""The file of an exported notebook: written whole or not at all, and checked while it is read.

It is a zip whose members are stored, not compressed: nothing in it is larger than the file, and no path in it is ever used as one.

    history           the lines by their counts        } records: a JSON object in a line, then as many bytes as its "bytes" says:
    environment       the setups in order              } the messages of the line; the pickle of a setup's value; the pickles of the
    groups            the records of the variables     } variables. A buffer is [size, [digests of its pieces]].
    pieces/DIGEST     the pieces of large buffers, each once, named by their BLAKE3 digest in hex
    manifest.json     "format", "version", what else `exporting` has to say of the notebook, and of each of the first three members
                      the size, the number of records and the digest; of the pieces their number and size

A file with a higher version is refused. One with the same version may have more than is known here only in "written".
"""

import contextlib
import json
import os
import re
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from blake3 import blake3
from transaction.interfaces import TransientError
from ZODB.POSException import POSError

from .. import __version__
from ..errors import ArchiveError, ERP5Error
from .chunks import LONGEST

FORMAT, VERSION = 'ipython_erp5 notebook', 1
SUFFIX = '.erp5nb'
MEMBERS = ('history', 'environment', 'groups')
MANIFEST, PIECES = 'manifest.json', 'pieces/'
PIECE = re.compile(f'{PIECES}[0-9a-f]{{64}}')
Record = tuple[dict[str, Any], bytes]
Value = TypeVar('Value')


# ---------------------------------------------------------------- names and files
def file_name(reference: str) -> str:
    """A name for the file of a notebook that every system takes."""
    name = re.sub(r'[^\w.-]+', '_', reference).strip('._')
    return name.encode()[:200].decode(errors='ignore') + SUFFIX if name else f'notebook{SUFFIX}'


@contextlib.contextmanager
def new_file(path: Path, force: bool) -> Iterator[IO[bytes]]:
    """A file that only its owner may read, and that has its name once it is whole. ArchiveError if there is one and not `force`."""
    if path.exists() and not force:
        raise there_is(path)
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name[:40]}.')  # mkstemp makes it 0600
        try:
            with os.fdopen(fd, 'w+b') as file:
                yield file
                file.flush()
                os.fsync(fd)
            take_name(temporary, path, force)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
    except OSError as error:
        raise error if isinstance(error, ERP5Error) else ArchiveError(f'{path} cannot be written: {error.strerror or error}') from None


def take_name(temporary: str, path: Path, force: bool) -> None:
    if not force:
        try:
            return os.link(temporary, path)  # unlike a renaming, it fails where somebody else has been faster
        except FileExistsError:
            raise there_is(path) from None
        except OSError:  # a file system without links
            pass
    os.replace(temporary, path)


def there_is(path: Path) -> ArchiveError:
    return ArchiveError(f'{path} exists already: name another file, or say --force to replace it')


# ---------------------------------------------------------------- writing
class Writer:
    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        self.zip = zipfile.ZipFile(file, 'w')
        self.members: dict[str, dict[str, object]] = {}
        self.pieces = self.size = 0

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> None:
        try:
            self.zip.close()
        except OSError:
            if error is None:
                raise

    def records(self, name: str, records: Iterable[Record]) -> int:
        """Write a member; how many records it has."""
        count, size, digest = 0, 0, blake3()
        with self.zip.open(information(name), 'w', force_zip64=True) as member:
            for record, data in records:
                count += 1
                for part in (json.dumps({**record, 'bytes': len(data)}).encode() + b'\n', data):
                    size += member.write(part)
                    digest.update(part)
        self.members[name] = {'size': size, 'records': count, 'blake3': digest.hexdigest()}
        return count

    def piece(self, digest: bytes, data: bytes) -> None:
        self.pieces += 1
        self.size += len(data)
        self.zip.writestr(information(PIECES + digest.hex()), data)

    def finish(self, manifest: Mapping[str, object]) -> None:
        written = {'by': f'ipython_erp5 {__version__}', 'python': f'{sys.version_info[0]}.{sys.version_info[1]}', 'time': time.time()}
        whole = {'format': FORMAT, 'version': VERSION, 'written': written, **manifest, 'members': self.members,
                 'pieces': {'number': self.pieces, 'size': self.size}}
        self.zip.writestr(information(MANIFEST), json.dumps(whole, indent=1))


def information(name: str) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name, time.gmtime()[:6])
    found.external_attr = 0o600 << 16
    return found


# ---------------------------------------------------------------- reading
@contextlib.contextmanager
def refused(path: Path) -> Iterator[None]:
    """Whatever a file that is not one of ours makes go wrong is an ArchiveError; what the database says goes through."""
    try:
        yield
    except (ERP5Error, POSError, TransientError):
        raise
    except OSError as error:
        raise ArchiveError(f'{path} cannot be imported: {error.strerror or error}') from error
    except (zipfile.BadZipFile, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError, struct.error) as error:
        raise ArchiveError(f'{path} is not the whole export of a notebook, or has been changed since ({type(error).__name__}: {error}). '
                           'Nothing was imported; export the notebook again') from error


def entry(record: Any, name: str, kind: type[Value]) -> Value:
    """A value of a JSON object; ValueError unless it is there and of this very type."""
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind:
        raise ValueError(f'{name}: expected {kind.__name__}, got {type(value).__name__}')
    return value


class Source:
    """A file to import, open. What it reads raises what `refused` turns into an ArchiveError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.zip = zipfile.ZipFile(path)
        try:
            self.manifest = self.checked_manifest()
            self.check_members()
        except BaseException:
            self.zip.close()
            raise

    def __enter__(self) -> 'Source':
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> None:
        self.zip.close()

    def checked_manifest(self) -> dict[str, Any]:
        self.check_member(self.zip.getinfo(MANIFEST))
        manifest: dict[str, Any] = json.loads(self.zip.read(MANIFEST))
        if entry(manifest, 'format', str) != FORMAT:
            raise ValueError(f'its format is {manifest["format"]!r}')
        if entry(manifest, 'version', int) > VERSION:
            raise ArchiveError(f'{self.path} has version {manifest["version"]} of the format, and version {VERSION} is known here: '
                               f'{entry(entry(manifest, "written", dict), "by", str)} wrote it. Install that version or a newer one')
        return manifest

    def check_member(self, member: zipfile.ZipInfo) -> None:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size or member.flag_bits & 1:
            raise ValueError(f'{member.filename} is compressed or encrypted')

    def check_members(self) -> None:
        """The sizes that the zip declares, against what the manifest says, and against the bytes that there are."""
        members = self.zip.infolist()
        pieces = [member for member in members if PIECE.fullmatch(member.filename)]
        for member in members:
            self.check_member(member)
        if sorted(member.filename for member in members if member not in pieces) != sorted((*MEMBERS, MANIFEST)):
            raise ValueError('it has other members')
        if len({member.filename for member in pieces}) != len(pieces) or any(member.file_size > LONGEST for member in pieces):
            raise ValueError('it has a piece twice, or one that is too long')
        told = entry(self.manifest, 'pieces', dict)
        self.size = sum(member.file_size for member in pieces)
        if (told.get('number'), told.get('size')) != (len(pieces), self.size):
            raise ValueError('it does not have the pieces that it should have')
        if sum(member.file_size for member in members) > self.path.stat().st_size:
            raise ValueError('its members are larger than the file')
        self.names = [member.filename for member in pieces]

    def records(self, name: str) -> Iterator[Record]:
        """The records of a member, which are known to be those that were written only after the last one."""
        told = entry(entry(self.manifest, 'members', dict), name, dict)
        left, count, digest = self.zip.getinfo(name).file_size, 0, blake3()
        if left != entry(told, 'size', int):
            raise ValueError(f'{name} has {left} bytes')
        with self.zip.open(name) as member:
            while left:
                line = member.readline()
                record = json.loads(line)
                size = entry(record, 'bytes', int)
                left -= len(line) + size
                if size < 0 or left < 0:
                    raise ValueError(f'{name} is cut')
                data = member.read(size)
                digest.update(line + data)
                count += 1
                yield record, data
        if (count, digest.hexdigest()) != (told.get('records'), told.get('blake3')):
            raise ValueError(f'{name} has been changed')

    def pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """(digest, bytes) of each piece."""
        for name in self.names:
            data, digest = self.zip.read(name), bytes.fromhex(name.removeprefix(PIECES))
            if blake3(data).digest() != digest:
                raise ValueError(f'{name} has been changed')
            yield digest, data
