"""Shows computed values in translated paragraphs, too, and the repository's address (Sphinx).

The role ``{glue:text}`` of myst-nb looks a value of its own page up while it reads the notebook, of
which a translated paragraph knows nothing: it would come out empty. As a reference, like to a value
of another page, it is filled in once all pages are read.
"""

from myst_nb.ext.glue.roles import PasteTextRole

#: What stands in a source where the address of the repository is to be shown, in code too.
REPOSITORY = "<repository>"


class Value(PasteTextRole):
    """``{glue:text}`name:format```, for which the page is always said."""

    def run(self):
        env = self.document.settings.env
        page, _, name = self.text.rpartition("::")
        page = page or f"/{env.doc2path(env.docname, base=False)}"
        self.text = f"{page}::{name}" if ":" in name else f"{page}::{name}:s"
        return super().run()


def with_address(app, page: str, source: list[str]) -> None:
    """Put the address of the repository, which stands in the settings of the book alone."""
    options = getattr(app.config, "html_theme_options", {})
    address = getattr(app.config, "book_repository", "") or options.get("repository_url", "")
    source[0] = source[0].replace(REPOSITORY, address or REPOSITORY)


def setup(app) -> dict:
    app.setup_extension("myst_nb")
    app.connect("source-read", with_address)
    app.add_role_to_domain("glue", "text", Value(), override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
