"""What a variable's bytes refer to instead of holding it, and which of the objects that they hold others could share.

    a value ─► serializer ─► Trace: ─► References: has it a name?  yes ─► the name stands in the bytes
                                                                   no  ─► noted: the variables that visit the same mutable object
                                                                          are kept together
"""

import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import re
import types
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from Acquisition import ExplicitAcquisitionWrapper, ImplicitAcquisitionWrapper, aq_base
from persistent import Persistent

from ..errors import NotSavedError, SerializationError
from .libraries import everybodys, immutables

ATOMS: tuple[type, ...] = (type(None), int, float, bool, str, bytes, complex, type(Ellipsis), type(NotImplemented))
IMMUTABLES: tuple[type, ...] = (*ATOMS, range, slice, tuple, frozenset, types.CodeType, types.BuiltinFunctionType, types.ModuleType,
                                datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal,
                                fractions.Fraction, uuid.UUID, pathlib.PurePath, re.Pattern, pickle.PickleBuffer, types.GenericAlias,
                                types.UnionType, types.WrapperDescriptorType, types.MethodDescriptorType,
                                types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType)


CONTAINERS = frozenset({list, dict, set, frozenset, tuple, bytearray})
COMPILED = ('cython_function_or_method', 'fused_cython_function')  # functions of libraries: every module has a type of its own


class Kinds(dict[type, str]):
    """What to do with an object of a type: atom, immutable, persistent, wrapper, class, function, other."""

    def __missing__(self, kind: type) -> str:
        self[kind] = found = self.find(kind)
        return found

    @staticmethod
    def find(kind: type) -> str:
        if kind in ATOMS:
            return 'atom'
        if kind in (ImplicitAcquisitionWrapper, ExplicitAcquisitionWrapper):
            return 'wrapper'
        for base, name in ((Persistent, 'persistent'), (type, 'class'), (types.FunctionType, 'function'), (IMMUTABLES, 'immutable')):
            if issubclass(kind, base) and not (name == 'immutable' and kind.__module__ == '__main__' and kind.__dictoffset__):
                return name  # what a notebook derives from a tuple has attributes, which change
        if kind.__name__ in COMPILED:
            return 'immutable'
        return 'immutable' if issubclass(kind, enum.Enum) or issubclass(kind, immutables()) else 'other'


class References:
    """What is named in a variable's bytes rather than copied into them, and the way back.

        ('namespace',)            the dict of `__main__`, or the module itself: ('module',)
        ('environment', name)     an object that a setup provides
        ('injected', name)        `environment` and its kin
        ('builtins',)             `__builtins__` of `__main__`, which `exec` puts into every dict that it is given
        ('document', path, oid, site)   an object of the database with its acquisition
        ('persistent', oid, site)       one without

    An oid means something in one database only, which `site` names: of a notebook that was imported from another one, the path counts.
    """

    def __init__(self, module: types.ModuleType, application: Any, injected: Mapping[str, object]) -> None:
        self.module, self.application, self.injected = module, application, injected
        self.site = str(getattr(getattr(application, 'erp5', None), 'site_id', ''))
        self.main: dict[str, Any] = module.__dict__
        self.builtins = self.main.get('__builtins__', self)  # the cell may take it out
        self.provided: Mapping[str, object] = {}
        self.kinds = Kinds()
        self.named: dict[int, tuple[object, ...]] = {}
        self.containers: set[int] = set()  # of these, plain containers: no pickler asks about them but by `reference`

    def provide(self, provided: Mapping[str, object]) -> None:
        """From here on `provided` is what the environment provides, by name."""
        self.provided = provided
        self.named = {id(value): ('environment', name) for name, value in provided.items()
                      if self.kinds[type(value)] not in ('atom', 'immutable', 'wrapper')}
        self.named.update((id(value), ('injected', name)) for name, value in self.injected.items())
        self.containers = {id(value) for value in provided.values() if type(value) in CONTAINERS}
        self.named[id(self.main)] = ('namespace',)
        self.named[id(self.builtins)] = ('builtins',)
        self.named[id(self.module)] = ('module',)

    def __call__(self, value: object) -> tuple[object, ...] | None:
        kind = self.kinds[type(value)]
        if kind == 'atom':
            return None
        if kind == 'wrapper' or kind == 'persistent':
            return self.named.get(id(value)) or self.database(value, kind)
        return self.named.get(id(value))

    def database(self, value: Any, kind: str) -> tuple[object, ...] | None:
        base = aq_base(value)
        if not isinstance(base, Persistent):
            return None
        connection = self.application._p_jar
        if base._p_jar is None and kind == 'persistent':
            return None  # never was in the database: a value like others
        if base._p_jar is not None and base._p_jar is not connection:
            raise SerializationError('an object of another database connection')
        if kind == 'persistent':
            return ('persistent', base._p_oid, self.site)
        path = '/'.join(value.getPhysicalPath())
        if base._p_jar is None:
            if aq_base(self.application.unrestrictedTraverse(path, None)) is not base:
                raise SerializationError('a document that is not in the database: nothing contains it, or its creation was rolled back')
            connection.add(base)
        return ('document', path, base._p_oid, self.site)

    def resolve(self, reference: Any) -> Any:
        kind, *rest = reference
        return getattr(self, f'resolve_{kind}')(*rest)

    def resolve_namespace(self) -> dict[str, Any]:
        return self.main

    def resolve_builtins(self) -> object:
        return self.builtins

    def resolve_module(self) -> types.ModuleType:
        return self.module

    def resolve_environment(self, name: str) -> object:
        if name not in self.provided:
            raise NotSavedError(f'it refers to {name!r}, which the environment provided then and does not provide now')
        return self.provided[name]

    def resolve_injected(self, name: str) -> object:
        return self.injected[name]

    def resolve_document(self, path: str, oid: bytes, site: str = '') -> object:
        document = self.application.unrestrictedTraverse(path, None)
        if self.is_foreign(site):
            if '/'.join(getattr(document, 'getPhysicalPath', tuple)()) != path:  # None, or what has been acquired
                raise NotSavedError(f'the document {path} is of the database from which this notebook was imported, and not in this one')
        elif document is None or aq_base(document)._p_oid != oid:
            raise NotSavedError(f'the document {path} has been moved or deleted')
        return document

    def resolve_persistent(self, oid: bytes, site: str = '') -> object:
        if self.is_foreign(site):
            raise NotSavedError('it refers to an object of the database from which this notebook was imported')
        return self.application._p_jar.get(oid)

    def is_foreign(self, site: str) -> bool:
        """Records of version 0.1.0 name no site."""
        return bool(site) and site != self.site


class Trace:
    """The `reference` of one dump: refers to what has a name, and notes the rest."""

    def __init__(self, references: References) -> None:
        self.references = references
        self.visited: list[object] = []  # kept alive: ids of temporary objects must not be used again

    def __call__(self, value: object) -> tuple[object, ...] | None:
        if type(value) in ATOMS:
            return None
        reference = self.references(value)
        if reference is None:
            self.visited.append(value)
        return reference

    def kinds(self) -> set[type]:
        """The types of the visited objects; of classes only the notebook's own, as others are named and not made again."""
        found = self.types()
        classes = {kind for kind in found if self.references.kinds[kind] == 'class'}
        if not classes:
            return found
        own = {type(value) for value in self.visited if type(value) in classes and getattr(value, '__module__', '') == '__main__'}
        return found - classes | own

    def types(self) -> set[type]:
        return set(map(type, self.visited))

    def mutable(self, visited: Sequence[object] | None = None) -> set[int]:
        """Ids of the visited objects, or of these, that a change through one variable would show in another."""
        kinds, main = self.references.kinds, self.references.main
        ids = set()
        for value in self.visited if visited is None else visited:
            kind = kinds[type(value)]
            if kind == 'other' or kind == 'persistent':
                ids.add(id(value))
            elif kind == 'class' and getattr(value, '__module__', '') == '__main__':
                ids.add(id(value))
            elif kind == 'function' and getattr(value, '__globals__', None) is main:
                ids.add(id(value))
        return ids - everybodys(self.types()) if ids else ids
