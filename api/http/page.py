"""The page at `/`: `page.html`, and the styles and modules of JavaScript in `api/page/`, from this origin alone."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

ASSETS = "/page"
# What the page may load, and whom it may ask: nobody else. Styles that scripts set are not restricted by this.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"
_POLICY += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def install(app: FastAPI) -> None:
    """Addresses in the page are relative, for a proxy that adds a prefix."""
    app.mount(ASSETS, StaticFiles(packages=[("api", "page")]), name="page")
    content = (files("api.http") / "page.html").read_text("utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(content, headers={"Content-Security-Policy": _POLICY})
