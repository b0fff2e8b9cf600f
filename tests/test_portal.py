"""What `context` is: the portal, its modules and documents, its catalog, its users."""

import base64
import json
from collections.abc import Callable

import pytest

from conftest import Node
from ipython_erp5.errors import ERP5Error
from ipython_erp5.reply import Reply
from ipython_erp5.session import Session

Run = Callable[[str], Reply]


def value(run: Run, expression: str) -> object:
    """The value of an expression there, of what JSON knows."""
    reply = run(f'import json\nprint(json.dumps({expression}), end="")')
    return json.loads(reply.text)


# ---------------------------------------------------------------- documents
def test_a_document_is_made_edited_and_read(run: Run) -> None:
    run("doc = context.document_module.newContent(title='one', reference='REF-1', description='long')")
    assert value(run, '[doc.getTitle(), doc.getReference(), doc.getDescription(), doc.getPortalType(), doc.hasReference()]') == [
        'one', 'REF-1', 'long', 'Document', True]
    run("doc.edit(title='two', description=None); doc.setReference('REF-2'); doc.setProperty('description', 'short')")
    assert value(run, "[doc.getTitle(), doc.getReference(), doc.getProperty('description'), doc.getProperty('nothing', 5)]") == ['two',
                                                                                                                                 'REF-2',
                                                                                                                                 'short', 5]
    assert value(run, "doc.getRelativeUrl() == 'document_module/' + doc.getId()") is True
    assert value(run, 'doc.creation_date <= doc.modification_date') is True


def test_defaults_of_accessors(run: Run) -> None:
    run('doc = context.document_module.newContent()')
    assert value(run, "[doc.getReference(), doc.getReference('x'), doc.hasReference(), doc.getTitle()]") == [None, 'x', False, '']


def test_ids_are_made_and_may_be_chosen(run: Run) -> None:
    run("module = context.document_module; one, two = module.newContent(), module.newContent()\n"
        "mine = module.newContent(id='chosen by me')")
    assert value(run, "one.getId() != two.getId() and mine.getId() == 'chosen by me' and module['chosen by me'] == mine") is True
    with pytest.raises(ERP5Error, match='chosen by me'):
        run("context.document_module.newContent(id='chosen by me')")


def test_wrong_use_says_what_would_be_right(run: Run) -> None:
    for code, text in (("context.document_module.newContent(portal_type='Nonsense')", "contains Document, not 'Nonsense'"),
                       ("context.document_module.newContent(colour='red')", 'has no property colour; it has title, reference, description'),
                       ("context.getDefaultModule('Nonsense')",
                        "no module contains documents of the type 'Nonsense'; there are Data Notebook, Document, Image"),
                       ('context.Base_saveImage()', 'No matplotlib plot object specified'),
                       ('import matplotlib.pyplot as plt\ncontext.Base_saveImage(plot=plt)', 'No reference specified for Image object')):
        with pytest.raises(ERP5Error, match=text) as raised:
            run(code)
        assert type(raised.value).__name__ == 'ValueError'


def test_a_temporary_document_is_in_no_folder_and_no_catalog(run: Run) -> None:
    reply = run("t = context.document_module.newContent(title='only for now', temp_object=True)\n"
                "print(t.getTitle(), t.isTempObject(), t.getId() in context.document_module.objectIds())\n"
                "print(len(context.portal_catalog(title='only for now'))); del t")
    assert reply.text == 'only for now True False\n0\n'


def test_the_modules(run: Run) -> None:
    assert value(run, "[context.getDefaultModule(t).getId() for t in ('Data Notebook', 'Image', 'Document')]") == [
        'data_notebook_module', 'image_module', 'document_module']
    assert value(run, "context.getDefaultModule(portal_type='Image').getPortalType()") == 'Module'
    run("doc = context.document_module.newContent(title='in the list')")
    assert value(run, "'in the list' in [d.getTitle() for d in context.document_module.contentValues(portal_type='Document')]") is True


# ---------------------------------------------------------------- acquisition and paths
def test_acquisition_and_paths(run: Run) -> None:
    run("doc = context.document_module.newContent(id='acquired', title='x')")
    assert value(run, "[doc.portal_catalog.getId(), doc.getPortalObject().getId(), doc.aq_parent.getId(), doc.image_module.getId()]") == [
        'portal_catalog', 'erp5', 'document_module', 'image_module']
    assert value(run, "context.restrictedTraverse('document_module/acquired') == context.document_module.acquired == doc") is True
    assert value(run, "'/'.join(doc.getPhysicalPath())") == '/erp5/document_module/acquired'
    assert value(run, "[doc.absolute_url().endswith('/erp5/document_module/acquired'), repr(doc), repr(context)]") == [
        True, '<Document at /erp5/document_module/acquired>', '<ERP5 Site at /erp5>']


# ---------------------------------------------------------------- the catalog
def test_the_catalog_is_up_to_date_within_the_cell(run: Run) -> None:
    reply = run("doc = context.document_module.newContent(reference='now', title='cat')\n"
                "print([brain.getObject().getTitle() for brain in context.portal_catalog(reference='now')])")
    assert reply.text == "['cat']\n"
    run("context.portal_catalog.getResultValue(reference='now').edit(reference='later')")
    assert value(run, "[len(context.portal_catalog(reference=r)) for r in ('now', 'later')]") == [0, 1]
    run("context.document_module.manage_delObjects([context.portal_catalog.getResultValue(reference='later').getId()])")
    assert value(run, "len(context.portal_catalog(reference='later'))") == 0


def test_queries(run: Run) -> None:
    run("for n in (2, 3, 1): context.document_module.newContent(reference='sorted', title=f't{n}')")
    assert value(run, "[b.title for b in context.portal_catalog(reference='sorted', sort_on='title')]") == ['t1', 't2', 't3']
    assert value(run, "len(context.portal_catalog(reference='sorted', title='t2', portal_type='Document'))") == 1
    assert value(run, "context.portal_catalog.getResultValue(reference='nothing like it')") is None
    assert value(run, "len(context.portal_catalog(portal_type=['Document', 'Image'], reference='sorted'))") == 3


def test_a_deleted_change_is_not_in_the_catalog(run: Run) -> None:
    with pytest.raises(ERP5Error):
        run("context.document_module.newContent(reference='rolled back'); 1 / 0")
    assert value(run, "len(context.portal_catalog(reference='rolled back'))") == 0


def test_a_notebook_is_a_document(run: Run, session: Session) -> None:
    run('1')
    run(f'notebook = context.portal_catalog.getResultValue(portal_type="Data Notebook", reference={session.reference!r})')
    assert value(run, '[notebook.getReference(), notebook.getPortalType(), notebook.getOwner(), notebook.getSerializer()]') == [
        session.reference, 'Data Notebook', 'admin', 'cloudpickle']


# ---------------------------------------------------------------- images
def test_a_plot_is_saved_as_an_image_document(run: Run) -> None:
    run('import matplotlib.pyplot as plt\nplt.plot([1, 2])\n'
        'image = context.Base_saveImage(plot=plt, reference="my plot", title="T")\nplt.close()')
    assert value(run, '[image.getReference(), image.getTitle(), image.getPortalType()]') == ['my plot', 'T', 'Image']
    assert value(run, '[image.getContentType(), image.getFilename()]') == ['image/png', 'my plot.png']
    assert value(run, 'image.getData()[:4].hex()') == '89504e47'
    data = run('context.Base_renderAsHtml(image)').outputs[0]['data']['text/html']
    assert base64.b64decode(data.partition('base64,')[2].partition('"')[0])[:4] == b'\x89PNG'


def test_an_image_is_made_of_bytes(run: Run) -> None:
    run("module = context.getDefaultModule(portal_type='Image')\n"
        "image = module.newContent(portal_type='Image', reference='r', data=b'GIF89a', filename='x.gif', content_type='image/gif')")
    assert value(run, 'image.getData().decode()') == 'GIF89a'
    assert 'data:image/gif;base64,R0lGODlh' in run('context.Base_renderAsHtml(image)').outputs[0]['data']['text/html']


@pytest.mark.parametrize(('made', 'markup'), [
    ("import pandas as pd\nx = pd.DataFrame({'a': [1]})", '<table'), ("x = 'plain <text>'", 'plain <text>'), ('x = 5', '5'),
    ("from IPython.display import IFrame\nx = IFrame('http://x/', 10, 10)", '<iframe'),
    ('import matplotlib.pyplot as plt\nx = plt.figure(); plt.close()', 'data:image/png'),
    ("class H:\n    def _repr_html_(self): return None\n    def __str__(self): return 'text'\nx = H()", 'text')])
def test_anything_is_rendered_as_html(run: Run, made: str, markup: str) -> None:
    outputs = run(f'{made}\ndef show(): context.Base_renderAsHtml(x)\nshow()').outputs
    assert len(outputs) == 1 and markup in outputs[0]['data']['text/html']


# ---------------------------------------------------------------- users
def test_a_cell_runs_as_the_user_who_sent_it(node: Node, session: Session) -> None:
    session.execute("context.acl_users._doAddUser('second', 'second password', ['Manager'], []) and None\n"
                    "context.document_module.newContent(id='shared', title='s') and None")
    who = 'from AccessControl import getSecurityManager\ngetSecurityManager().getUser().getId()'
    assert session.execute(who).result == {'text/plain': "'admin'"}
    with node.session(user='second', password='second password') as other:
        assert other.execute(who).result == {'text/plain': "'second'"}
        assert other.execute('context.data_notebook_module.find("%s").getOwner()' % other.reference).result == {'text/plain': "'second'"}


def test_a_user_may_be_of_another_folder_and_any_role(node: Node, session: Session) -> None:
    session.execute("context.acl_users._doAddUser('reader', 'reader password', ['Anonymous', 'Authenticated'], []) and None")
    with pytest.raises(ERP5Error, match='does not let'):
        node.session(user='reader', password='reader password')
    session.execute("context.acl_users._doChangeUser('reader', 'reader password', ['Manager'], []) and None")
    with node.session(user='reader', password='reader password') as other:
        assert other.execute('1').result == {'text/plain': '1'}
