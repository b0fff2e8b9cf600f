"""Documents of the portal: what every one of them can do, in ERP5's words.

A class names its properties; each gets `getTheProperty`, `setTheProperty` and `hasTheProperty`. `edit` sets several and brings the
catalog up to date, in the same transaction.
"""

from types import FunctionType
from typing import Any, ClassVar, NoReturn

from AccessControl.class_init import InitializeClass
from AccessControl.SecurityInfo import ClassSecurityInfo
from Acquisition import aq_base
from DateTime import DateTime
from OFS.Folder import Folder
from Products.BTreeFolder2.BTreeFolder2 import BTreeFolder2Base
from ZODB.POSException import ConflictError
from ZPublisher import zpublish, zpublish_marked


class Document(Folder):
    """A document: an object with an id, a portal type and properties."""

    portal_type: ClassVar[str] = 'Document'
    meta_type = 'ERP5 Document'
    properties: ClassVar[tuple[str, ...]] = ('title', 'reference', 'description')
    security = ClassSecurityInfo()
    types: ClassVar[dict[str, type['Document']]] = {}  # portal type -> class
    temporary = False
    title = ''
    reference = description = None

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.creation_date = self.modification_date = DateTime()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.types[cls.portal_type] = cls
        add_accessors(cls)
        unpublish(cls)

    def getPortalType(self) -> str:
        return self.portal_type

    def getUid(self) -> str:
        return self.getRelativeUrl()

    def getRelativeUrl(self) -> str:
        """The path below the portal, as in the URL."""
        return '/'.join(self.getPhysicalPath()[len(self.getPortalObject().getPhysicalPath()):])

    def getProperty(self, name: str, default: Any = None) -> Any:
        value = getattr(aq_base(self), name, None)
        return default if value is None else value

    def setProperty(self, name: str, value: Any) -> None:
        self.edit(**{name: value})

    def edit(self, **properties: Any) -> None:
        """Set properties; a ValueError names those that this portal type does not have."""
        unknown = sorted(set(properties) - set(self.properties))
        if unknown:
            raise ValueError(f'a {self.portal_type} has no property {", ".join(unknown)}; it has {", ".join(self.properties)}')
        for name, value in properties.items():
            setattr(self, name, value)
        self.modification_date = DateTime()
        self.reindexObject()

    def reindexObject(self) -> None:
        """Bring the catalog up to date, at once."""
        if not self.temporary:
            self.getPortalObject().portal_catalog.catalog_object(self, '/'.join(self.getPhysicalPath()))

    def isTempObject(self) -> bool:
        return self.temporary

    def manage_beforeDelete(self, item: Any, container: Any) -> None:
        self.getPortalObject().portal_catalog.uncatalog_object('/'.join(self.getPhysicalPath()))

    def __repr__(self) -> str:
        return f'<{self.portal_type} at /{"/".join(filter(None, self.getPhysicalPath()))}>'


def unpublish(cls: type) -> type:
    """Take the methods of a class out of the web: Zope publishes whatever has a docstring, unless it is told not to."""
    for value in vars(cls).values():
        if isinstance(value, FunctionType) and not zpublish_marked(value):
            zpublish(False)(value)
    return cls


def add_accessors(cls: type[Document]) -> None:
    """`get…`, `set…` and `has…` for every property, unless the class has its own."""
    for name in cls.properties:
        words = ''.join(word.capitalize() for word in name.split('_'))
        for accessor in (getter(name, words), setter(name, words), tester(name, words)):
            if accessor.__name__ not in cls.__dict__:
                setattr(cls, accessor.__name__, accessor)


def getter(name: str, words: str) -> Any:
    def get(self: Document, default: Any = None) -> Any:
        return self.getProperty(name, default)
    get.__name__ = f'get{words}'
    return get


def setter(name: str, words: str) -> Any:
    def set(self: Document, value: Any) -> None:
        self.edit(**{name: value})
    set.__name__ = f'set{words}'
    return set


def tester(name: str, words: str) -> Any:
    def has(self: Document) -> bool:
        return self.getProperty(name) is not None
    has.__name__ = f'has{words}'
    return has


Document.types[Document.portal_type] = Document
add_accessors(Document)
InitializeClass(unpublish(Document))


class Module(BTreeFolder2Base, Folder):
    """A folder of documents, for any number of them. `portal_types`: of what it may contain."""

    meta_type = 'ERP5 Module'
    portal_type: ClassVar[str] = 'Module'

    def __init__(self, id: str, portal_types: tuple[str, ...]) -> None:
        Folder.__init__(self, id)
        BTreeFolder2Base.__init__(self, id)
        self.portal_types = portal_types
        self.last_id = 0

    def newContent(self, portal_type: str | None = None, id: str | None = None, temp_object: bool = False,
                   **properties: Any) -> Document:
        """Make a document here: of `portal_type`, or of the only one there is. A temporary one is in no folder and never saved."""
        if portal_type is None and len(self.portal_types) == 1:
            portal_type, = self.portal_types
        if portal_type not in self.portal_types:
            raise ValueError(f'{self.getId()} contains {", ".join(self.portal_types)}, not {portal_type!r}')
        document = Document.types[portal_type](id or self.generateNewId())
        if temp_object:
            document.temporary = True
            document = document.__of__(self)
        else:
            self._setObject(document.getId(), document)
            document = self._getOb(document.getId())
        document.edit(**properties)
        return document

    def _p_resolveConflict(self, *states: Any) -> NoReturn:
        """ZODB looks for it on an instance without a state, at which BTreeFolder2's `__getattr__` fails: that would be in the log."""
        raise ConflictError('two processes have made documents in one module')

    def generateNewId(self) -> str:
        self.last_id += 1
        while self.has_key(str(self.last_id)):
            self.last_id += 1
        return str(self.last_id)

    def contentValues(self, portal_type: str | None = None) -> list[Document]:
        return [document for document in self.objectValues() if portal_type in (None, document.portal_type)]

    def getPortalType(self) -> str:
        return self.portal_type

    def __repr__(self) -> str:
        return f'<Module at /{"/".join(filter(None, self.getPhysicalPath()))}>'


InitializeClass(unpublish(Module))
