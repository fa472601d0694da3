"""What of a request reaches the application: the paths that the page needs, and a body of bounded size."""

from collections.abc import Awaitable, Callable

MAX_BYTES = 32 << 20  # of an image file; a radiograph of 3000 x 3000 at 16 bits, not compressed, has 18 MB
MAX_MESSAGE = MAX_BYTES // 3 * 4 + (1 << 20)  # of the same file in base64, with what the page says besides
ENDPOINT = "/api/predict"
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
PATHS = {"/", "/theme.css", "/config", "/favicon.ico", "/manifest.json", ENDPOINT}
PATHS |= {f"/gradio_api/{name}" for name in ("queue/join", "queue/data", "startup-events", "info")}
HOSTS = ["127.0.0.1", "localhost"]  # a page of another name that resolves to here (DNS rebinding) gets nothing
HEADERS = [  # the browser itself refuses what would leave this machine
    (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
TOO_LARGE = f"larger than {MAX_BYTES >> 20} MB, which is more than a radiograph needs"


class Gate:
    """ASGI middleware. Gradio's upload, file and proxy routes are not among the paths that it lets through."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        from starlette.responses import JSONResponse

        path = scope["path"]
        if scope["type"] != "http" or not (path in PATHS or path.startswith(FOLDERS)):
            return await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
        limit = MAX_BYTES if path == ENDPOINT else MAX_MESSAGE
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > limit:
            return await JSONResponse({"detail": TOO_LARGE}, 413)(scope, receive, send)
        return await self.app(scope, bounded(receive, limit), guarded(send))


def bounded(receive: Callable, limit: int) -> Callable[[], Awaitable[dict]]:
    """A `receive` that refuses a body once it has more bytes than the limit, whatever its header said."""
    from fastapi import HTTPException

    taken = 0

    async def counted() -> dict:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413, TOO_LARGE)
        return message

    return counted


def guarded(send: Callable) -> Callable[[dict], Awaitable[None]]:
    """A `send` that adds HEADERS to every response."""

    async def sent(message: dict) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *HEADERS]}
        await send(message)

    return sent
