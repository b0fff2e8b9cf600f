"""The `erp5` portal: its modules, its catalog, and the methods that are published for notebooks.

Everything published needs the permission `Manage portal`, and what names a notebook, that the user may use it (see `users`): an HTTP
403 is a JSON object with an `error`. The answers are those of a stock ERP5 site where it has them. What a
cell's `context` is: this portal, wrapped for the user who runs the cell.
"""

import uuid
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from typing import Any, ClassVar

import AccessControl
import AccessControl.users  # noqa: F401 - configures the user classes
import transaction
from AccessControl.class_init import InitializeClass
from AccessControl.SecurityInfo import ClassSecurityInfo
from Acquisition import aq_base
from BTrees.OOBTree import OOBTree
from IPython.display import HTML, display
from OFS.Folder import Folder
from Products.PluginIndexes.DateIndex.DateIndex import DateIndex
from Products.PluginIndexes.FieldIndex.FieldIndex import FieldIndex
from Products.PluginIndexes.PathIndex.PathIndex import PathIndex
from Products.ZCatalog.ZCatalog import ZCatalog
from transaction.interfaces import TransientError
from ZPublisher import zpublish

from .. import wire
from ..errors import UnauthorizedError, UnknownUserError
from . import users
from .answers import answer, barred, failure, node, text
from .document import Document, Module, unpublish
from .metrics import CONTENT_TYPE
from .notebook import DataNotebook

MANAGE = 'Manage portal'
NO_NOTEBOOK = 'no notebook has this reference'
INDEXES = {**dict.fromkeys(('portal_type', 'reference', 'title', 'id', 'owner'), FieldIndex),
           'creation_date': DateIndex, 'modification_date': DateIndex, 'path': PathIndex}
COLUMNS = ('id', 'portal_type', 'reference', 'title', 'owner')


class Image(Document):
    """A picture: `data` (bytes), `filename`, `content_type`."""

    portal_type: ClassVar[str] = 'Image'
    properties: ClassVar[tuple[str, ...]] = (*Document.properties, 'data', 'filename', 'content_type')
    content_type = 'image/png'
    data = b''


class DataNotebookModule(Module):
    """The notebooks; one for each reference."""

    def __init__(self, id: str, portal_types: tuple[str, ...]) -> None:
        super().__init__(id, portal_types)
        self.references = OOBTree()  # reference -> id: the catalog would do, a lookup here costs less

    def find(self, reference: str) -> DataNotebook | None:
        identifier = self.references.get(reference)
        return None if identifier is None else self._getOb(identifier)

    def open_notebook(self, request: wire.Request) -> DataNotebook:
        """The notebook of the request's reference, made if there is none; its serializer becomes the request's, if it names one.

        UnauthorizedError if the request's user may not use it.
        """
        notebook = self.find(request.reference)
        if notebook is None:
            notebook = self.newContent(reference=request.reference, title=request.title or request.reference, owner=request.user)
            self.references[request.reference] = notebook.getId()
        users.check(self, notebook, request.user)  # it may have been made since the publisher looked
        if request.serializer and request.serializer != notebook.serializer:
            notebook.serializer = request.serializer
        return notebook


class Catalog(ZCatalog):
    """`portal_catalog(**query)`: brains of the documents that match; up to date within the transaction."""

    def getResultValue(self, **query: Any) -> Any:
        """The first document that matches, or None."""
        for brain in self(**query):
            return brain.getObject()
        return None


MODULES: dict[str, tuple[type[Module], tuple[str, ...]]] = {
    'data_notebook_module': (DataNotebookModule, ('Data Notebook',)),
    'image_module': (Module, ('Image',)),
    'document_module': (Module, ('Document',)),
}


class ERP5Site(Folder):
    meta_type = 'ERP5 Site'
    title = 'ERP5'
    site_id = ''  # in which database an oid means something (see `references`)
    security = ClassSecurityInfo()

    @security.public
    def getPortalObject(self) -> 'ERP5Site':
        return self

    @security.public
    def getTitle(self) -> str:
        return self.title

    def getPortalType(self) -> str:
        return 'ERP5 Site'

    def getDefaultModule(self, portal_type: str) -> Module:
        """The module that contains documents of this type."""
        for name, (_, portal_types) in MODULES.items():
            if portal_type in portal_types:
                return self._getOb(name)
        known = sorted(kind for _, kinds in MODULES.values() for kind in kinds)
        raise ValueError(f'no module contains documents of the type {portal_type!r}; there are {", ".join(known)}')

    def __repr__(self) -> str:
        return '<ERP5 Site at /erp5>'

    # ------------------------------------------------------------ for cells
    def Base_renderAsHtml(self, value: Any) -> None:
        """Show an object as HTML: a figure or pyplot, an Image document, anything with `_repr_html_`, else its text."""
        display(HTML(as_html(value)))

    def Base_saveImage(self, plot: Any = None, reference: str | None = None, **properties: Any) -> Image:
        """Save a matplotlib figure, or pyplot's current one, as an Image document."""
        if plot is None or not hasattr(plot, 'savefig'):
            raise ValueError('No matplotlib plot object specified')
        if not reference:
            raise ValueError('No reference specified for Image object')
        return self.getDefaultModule('Image').newContent(portal_type='Image', reference=reference, data=png(plot),
                                                         filename=f'{reference}.png', **properties)

    # ------------------------------------------------------------ published
    @zpublish
    @security.protected(MANAGE)
    def Base_executeJupyter(self, REQUEST: Any) -> Any:
        """Run a cell: see `wire` for the fields and the two answers."""
        return node(REQUEST).execute(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_checkExistingReference(self, REQUEST: Any) -> Any:
        """`True`, or 204 and nothing."""
        notebook = named(self, REQUEST)
        return barred(REQUEST, notebook) or (True if notebook is not None else '')

    @zpublish
    @security.protected(MANAGE)
    def Base_interruptJupyter(self, REQUEST: Any) -> str:
        return barred(REQUEST, named(self, REQUEST)) or node(REQUEST).interrupt(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_releaseJupyter(self, REQUEST: Any) -> str:
        """Asked by another node of the cluster, to which a cell has come."""
        return barred(REQUEST, named(self, REQUEST)) or node(REQUEST).release(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_getJupyterResult(self, REQUEST: Any) -> Any:
        """The messages of a request: of the run in progress, or from its history line."""
        return node(REQUEST).result(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_getJupyterContext(self, REQUEST: Any) -> str:
        """Names, types and sizes of the variables, and the setups; 404 for a notebook that does not exist."""
        notebook = named(self, REQUEST)
        if notebook is None:
            return failure(REQUEST, 404, NO_NOTEBOOK)
        return barred(REQUEST, notebook) or answer(REQUEST, notebook.describe())

    @zpublish
    @security.protected(MANAGE)
    def Base_getJupyterHistory(self, REQUEST: Any) -> str:
        """Lines of the notebook and the cell that runs in it: see `Node.history`; 404 for a notebook that does not exist."""
        notebook = named(self, REQUEST)
        if notebook is None:
            return failure(REQUEST, 404, NO_NOTEBOOK)
        return barred(REQUEST, notebook) or node(REQUEST).history(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_completeJupyter(self, REQUEST: Any) -> Any:
        """Jupyter's `complete_reply` for `code` at `cursor_pos` (counted in characters), by the last commit; 404 without the notebook."""
        notebook = named(self, REQUEST)
        if notebook is None:
            return failure(REQUEST, 404, NO_NOTEBOOK)
        return barred(REQUEST, notebook) or node(REQUEST).complete(notebook, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_inspectJupyter(self, REQUEST: Any) -> Any:
        """Jupyter's `inspect_reply` for the name in `code` at `cursor_pos`; `detail_level` 1: with its source. 404 as above."""
        notebook = named(self, REQUEST)
        if notebook is None:
            return failure(REQUEST, 404, NO_NOTEBOOK)
        return barred(REQUEST, notebook) or node(REQUEST).inspect(notebook, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_shareJupyter(self, REQUEST: Any) -> str:
        """Share the notebook with `user`, or no longer if `remove` is True; by its owner or a Manager. With whom it is shared then."""
        notebook = named(self, REQUEST)
        if notebook is None:
            return failure(REQUEST, 404, NO_NOTEBOOK)
        change = users.unshare if text(REQUEST, 'remove') == 'True' else users.share
        try:
            return barred(REQUEST, notebook) or answer(REQUEST, committed(lambda: shared(change, REQUEST, notebook)))
        except UnauthorizedError as error:
            return failure(REQUEST, 403, str(error))
        except UnknownUserError as error:
            return failure(REQUEST, 404, str(error))

    @zpublish
    @security.protected(MANAGE)
    def Base_putJupyterBuffers(self, REQUEST: Any) -> Any:
        """Large buffers for the cell `request_id`, which comes after them: see `Node.put`."""
        return barred(REQUEST, named(self, REQUEST)) or node(REQUEST).put(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_getJupyterBuffers(self, REQUEST: Any) -> Any:
        """`spans` of the large buffers that the cell `request_id` has sent; 404 if they are not there (any more)."""
        return barred(REQUEST, named(self, REQUEST)) or node(REQUEST).get(self, REQUEST)

    @zpublish
    @security.protected(MANAGE)
    def Base_getJupyterStatus(self, REQUEST: Any) -> str:
        return answer(REQUEST, node(REQUEST).status(self, REQUEST))

    @zpublish
    @security.protected(MANAGE)
    def metrics(self, REQUEST: Any) -> bytes:
        """For Prometheus."""
        REQUEST.RESPONSE.setHeader('Content-Type', CONTENT_TYPE)
        return node(REQUEST).metrics.exposition()


InitializeClass(Image)
InitializeClass(unpublish(DataNotebookModule))
InitializeClass(unpublish(Catalog))
InitializeClass(unpublish(ERP5Site))


def named(portal: Any, REQUEST: Any) -> DataNotebook | None:
    """The notebook that the request is about."""
    return portal.data_notebook_module.find(text(REQUEST, 'reference'))


def shared(change: Callable[[Any, Any, str], None], REQUEST: Any, notebook: DataNotebook) -> dict[str, Any]:
    change(REQUEST['AUTHENTICATED_USER'], notebook, text(REQUEST, 'user'))
    return {'reference': notebook.reference, 'shared_with': users.shared_with(notebook)}


def committed(change: Callable[[], Any]) -> Any:
    """Make a change and commit it, once more where somebody else changes the same at the same moment: Zope is not to do that."""
    for attempt in range(4, -1, -1):
        value = change()
        try:
            transaction.commit()
            break
        except TransientError:
            transaction.abort()
            if not attempt:
                raise
        finally:
            transaction.begin()
    return value


# ---------------------------------------------------------------- HTML
def as_html(value: Any) -> str:
    """HTML of a figure or pyplot, an Image document, an object with `_repr_html_`; the text of any other."""
    if hasattr(value, 'savefig'):
        return picture('image/png', png(value))
    if isinstance(aq_base(value), Image):
        return picture(value.getContentType(), value.getData())
    markup = value._repr_html_() if hasattr(value, '_repr_html_') and not isinstance(value, type) else None
    return str(value) if markup is None else f'{markup}<br />'


def picture(content_type: str, data: bytes) -> str:
    return f'<img src="data:{content_type};base64,{b64encode(data).decode()}" /><br />'


def png(plot: Any) -> bytes:
    buffer = BytesIO()
    plot.savefig(buffer, format='png')
    return buffer.getvalue()


# ---------------------------------------------------------------- making the site
def configure_security() -> None:
    """Zope's security as a product of Zope configures it. Once a process, before anything is published."""
    AccessControl.setImplementation('C')
    AccessControl.setDefaultBehaviors(True, True, False)


def install(application: Any, user: str, password: str | None) -> None:
    """The user and the portal with all that belongs to it, if they are not there. `password` None: the one it has."""
    folder = application.acl_users
    if folder.getUserById(user) is None:
        if password is None:
            raise ValueError(f'the user {user!r} does not exist, and there is no password to make it with')
        folder._doAddUser(user, password, ['Manager'], [])
    elif password is not None and not folder.getUserById(user).authenticate(password, None):
        folder._doChangeUser(user, password, ['Manager'], [])
    if 'erp5' not in application.objectIds():
        application._setObject('erp5', ERP5Site('erp5'))
    portal = application.erp5
    if not portal.site_id:
        portal.site_id = uuid.uuid4().hex
    allow(application, portal)
    if 'portal_catalog' not in portal.objectIds():
        portal._setObject('portal_catalog', Catalog('portal_catalog', 'Catalog'))
        add_indexes(portal.portal_catalog)
    for name, (kind, portal_types) in MODULES.items():
        if name not in portal.objectIds():
            portal._setObject(name, kind(name, portal_types))


def allow(application: Any, portal: Any) -> None:
    """Managers and Authors may run code; nothing is written where they already may."""
    for role in users.ROLES:
        if role not in application.valid_roles():
            application._addRole(role)
    granted = {item['name'] for item in portal.rolesOfPermission(MANAGE) if item['selected']}
    if granted != set(users.ROLES):
        portal.manage_permission(MANAGE, users.ROLES, acquire=0)


def add_indexes(catalog: Any) -> None:
    for name, kind in INDEXES.items():
        catalog._catalog.addIndex(name, kind(name))  # ZCatalog's own addIndex looks for products that Zope has registered
    for name in COLUMNS:
        catalog.addColumn(name)
