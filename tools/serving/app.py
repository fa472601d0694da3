"""The web application: the static page at /, and the interface below /api that the page and other programs use."""

import math
import pathlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from cxr.evaluation import overlays
from cxr.findings import FINDINGS
from cxr.images.errors import ImageError
from cxr.patient import Patient
from inference import readings
from inference.predictor import Predictor
from tools.serving.guard import HOSTS, Guard
from tools.serving.samples import draw_samples
from tools.serving.validation import MAX_BYTES, RequestError, parse_finding, parse_patient, read_image

if TYPE_CHECKING:
    import fastapi

STATIC = pathlib.Path(__file__).parent / "static"
THREADS = 4  # that decode and run the network; a grey image of 64 million pixels takes up to 200 MB
BODIES = 8  # images held in memory at once, up to MAX_BYTES each; other requests wait before theirs is read
CONNECTIONS = 512  # at once; more are answered with 503
SECONDS_TO_END = 2  # for requests in progress when the server is interrupted


class Served(NamedTuple):
    """A model, and what it is called."""

    predictor: Predictor
    name: str  # of the experiment
    checkpoint: str
    dataset: dict  # dataset.json of its training
    advice: str  # the command that makes operating points


def describe(served: Served) -> dict:
    """What the page needs before it has an image: GET /api/model."""
    points, dataset = served.predictor.points, served.dataset
    thresholds = zip(FINDINGS, points.thresholds, points.calibrated(points.thresholds), strict=True)
    findings = {
        finding: {"threshold": _or_none(threshold), "calibrated_threshold": _or_none(calibrated)}
        for finding, threshold, calibrated in thresholds
    }
    return {
        "experiment": served.name,
        "checkpoint": served.checkpoint,
        "clinical_use": False,
        "dataset": {
            "csv": dataset["source"]["csv"],
            "split": dataset["split"]["name"],
            "fingerprint": dataset["fingerprint"],
        },
        "findings": findings,
        "metadata": served.predictor.params.metadata,  # whether age, sex and view position position change the answer
        "max_bytes": MAX_BYTES,
        "advice": served.advice if points.is_empty else None,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def predict(served: Served, data: bytes, patient: Patient) -> dict:
    """The answer of POST /api/predict. Raises ImageError or ImportError as `Predictor.read` does."""
    picture = served.predictor.read(data, patient)
    findings = readings.as_json(served.predictor.predict([picture])[0], served.predictor.points)
    about = {"experiment": served.name, "checkpoint": served.checkpoint, "clinical_use": False}
    return about | {"warnings": list(picture.warnings), "findings": findings}


def draw(predictor: Predictor, data: bytes, finding: str | None) -> bytes:
    """The answer of POST /api/image: the image as a PNG of overlays.SIDE pixels, under the heat map of a finding."""
    picture = predictor.read(data)
    if finding:
        return predictor.overlay(picture, finding)
    import cv2

    return cv2.imencode(".png", overlays.fitted(picture.pixels)[..., 0])[1].tobytes()


def make_app(served: Served) -> "fastapi.FastAPI":
    """Put page, interface and guard together."""
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.staticfiles import StaticFiles

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # those pages load scripts from elsewhere
    add_error_handlers(app)
    add_gets(app, served)
    add_posts(app, served)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    app.add_middleware(Guard)
    return app


def add_error_handlers(app: "fastapi.FastAPI") -> None:
    """Answer a refused request with {"detail": why}, in one line."""
    from fastapi import Request, Response
    from fastapi.responses import JSONResponse
    from starlette.requests import ClientDisconnect

    def handler(status: int | None = None) -> Callable:
        async def respond(_: Request, error: Exception) -> Response:
            return JSONResponse({"detail": " ".join(str(error).split())}, status or error.status)

        return respond

    app.add_exception_handler(RequestError, handler())
    app.add_exception_handler(ImageError, handler(400))
    app.add_exception_handler(ImportError, handler(501))  # DICOM without pydicom
    app.add_exception_handler(ClientDisconnect, handler(400))  # never arrives: the page has sent a later request


def add_gets(app: "fastapi.FastAPI", served: Served) -> None:
    """Add /api/model and the samples."""
    from fastapi import HTTPException, Response

    samples = draw_samples()
    pngs = list(samples.values())
    model = describe(served) | {"samples": list(samples)}

    @app.get("/api/model")
    async def get_model() -> dict:
        return model

    @app.get("/samples/{number}.png")
    async def get_sample(number: str) -> Response:
        if number not in map(str, range(len(pngs))):
            raise HTTPException(404)
        return Response(pngs[int(number)], media_type="image/png")


def add_posts(app: "fastapi.FastAPI", served: Served) -> None:
    """Add /api/predict and /api/image, whose body is an image file as it is."""
    import anyio
    from fastapi import Request, Response

    threads = anyio.CapacityLimiter(THREADS)
    bodies = anyio.CapacityLimiter(BODIES)

    async def answer(request: Request, parse: Callable, function: Callable, model: Served | Predictor) -> dict | bytes:
        async with bodies:
            data = await read_image(request)
            wanted = parse(request.query_params)
            return await anyio.to_thread.run_sync(function, model, data, wanted, limiter=threads)

    @app.post("/api/predict")
    async def post_predict(request: Request) -> dict:
        return await answer(request, parse_patient, predict, served)

    @app.post("/api/image")
    async def post_image(request: Request) -> Response:
        return Response(await answer(request, parse_finding, draw, served.predictor), media_type="image/png")


def listen(port: int) -> socket.socket:
    """Take a port of this computer, which no other computer can reach; 0 is any free one.

    Raises:
        OSError: it is in use, or not allowed.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # do not wait for the last server's connections
    try:
        listener.bind((HOSTS[0], port))
        listener.listen()  # so that a second server fails now, not when its model is loaded
    except OSError as error:
        listener.close()
        raise OSError(f"port {port}: {error.strerror}. Give another: --port 7861") from error
    return listener


def run(served: Served, listener: socket.socket) -> None:
    """Answer until interrupted."""
    import uvicorn

    options = {"log_level": "warning", "access_log": False, "ws": "none", "limit_concurrency": CONNECTIONS}
    config = uvicorn.Config(make_app(served), timeout_graceful_shutdown=SECONDS_TO_END, **options)
    print(f"{served.name}: http://{HOSTS[0]}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
