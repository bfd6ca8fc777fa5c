"""Shows computed values in translated paragraphs, too (Sphinx).

The role ``{glue:text}`` of myst-nb looks a value of its own page up while it reads the notebook, of
which a translated paragraph knows nothing: it would come out empty. As a reference, like to a value
of another page, it is filled in once all pages are read.
"""

from myst_nb.ext.glue.roles import PasteTextRole


class Value(PasteTextRole):
    """``{glue:text}`name:format```, for which the page is always said."""

    def run(self):
        env = self.document.settings.env
        page, _, name = self.text.rpartition("::")
        page = page or f"/{env.doc2path(env.docname, base=False)}"
        self.text = f"{page}::{name}" if ":" in name else f"{page}::{name}:s"
        return super().run()


def setup(app) -> dict:
    app.setup_extension("myst_nb")
    app.add_role_to_domain("glue", "text", Value(), override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
