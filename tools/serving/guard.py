"""ASGI middleware that rejects requests from other sites and keeps the page from loading anything elsewhere."""

from collections.abc import Callable

HOSTS = ("127.0.0.1", "localhost")  # other names are rejected, even if they resolve to this computer (DNS rebinding)
HEADERS = {  # the browser then blocks every request to other computers and every script from elsewhere
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """Reject requests that pages of other sites send, and add HEADERS to every response."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import JSONResponse

        async def send_guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            own = f"http://{headers.get('host')}"
            if headers.get("origin", own) != own:  # browsers send the site of the page as Origin; curl sends none
                app = JSONResponse({"detail": f"only the page at {own} may send requests"}, 403)
        await app(scope, receive, send_guarded)
