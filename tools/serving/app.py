"""The web application: the page at / and the JSON interface at /api, which the page and other programs use."""

import pathlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from cxr.evaluation import metrics, overlays
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
THREADS = 4  # for decoding and the network; a grey image of 64 million pixels takes up to 200 MB
BODIES = 8  # uploads in memory at once, up to MAX_BYTES each; further requests wait before they are read
CONNECTIONS = 512  # at once; further ones get status 503
SHUTDOWN_SECONDS = 2  # for requests in progress when the server is interrupted


class Served(NamedTuple):
    """The model to serve, and its names."""

    predictor: Predictor
    name: str  # experiment name
    checkpoint: str
    dataset: dict  # dataset.json that it was trained on
    advice: str  # the command that chooses operating points
    distances_advice: str  # what to say if distances are not fitted


def describe(served: Served) -> dict:
    """The answer of GET /api/model: what the page shows before it has an image."""
    points, dataset = served.predictor.points, served.dataset
    thresholds = points.thresholds.tolist()
    calibrated = points.calibrated(points.thresholds).tolist()
    findings = {
        finding: {"threshold": thresholds[row], "calibrated_threshold": calibrated[row]}
        for row, finding in enumerate(FINDINGS)
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
        "findings": metrics.none_for_nan(findings),
        "metadata": len(served.predictor.network.input) > 1,  # whether age, sex and view position are inputs
        "max_bytes": MAX_BYTES,
        "advice": served.advice if points.is_empty else None,
        "distances_advice": served.distances_advice if served.predictor.distances is None else None,
    }


def predict_image(served: Served, data: bytes, patient: Patient) -> dict:
    """The answer of POST /api/predict. Raises ImageError and ImportError, as `Predictor.read` does."""
    picture = served.predictor.read(data, patient)
    reading = served.predictor.predict([picture])[0]
    return {
        **{"experiment": served.name, "checkpoint": served.checkpoint, "clinical_use": False},
        "warnings": list(picture.warnings),
        **readings.judgement_json(reading),
        "distance_threshold": served.predictor.distance_threshold,
        "findings": readings.as_json(reading, served.predictor.points),
    }


def draw_image(served: Served, data: bytes, finding: str | None) -> bytes:
    """The answer of POST /api/image: a PNG of overlays.SIDE pixels, with the heat map of a finding if one is given."""
    picture = served.predictor.read(data)
    if finding:
        return served.predictor.overlay(picture, finding)
    import cv2

    return cv2.imencode(".png", overlays.fitted(picture.pixels)[..., 0])[1].tobytes()


def make_app(served: Served) -> "fastapi.FastAPI":
    """Build the application: the page, the interface and the guard."""
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.staticfiles import StaticFiles

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # these pages load scripts from other sites
    add_error_handlers(app)
    add_gets(app, served)
    add_posts(app, served)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    app.add_middleware(Guard)
    return app


def add_error_handlers(app: "fastapi.FastAPI") -> None:
    """Answer a rejected request with {"detail": reason}, the reason in one line."""
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
    app.add_exception_handler(
        ClientDisconnect, handler(400)
    )  # not seen by the client: the page has sent a newer request


def add_gets(app: "fastapi.FastAPI", served: Served) -> None:
    """Add GET /api/model and the sample images."""
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
    """Add POST /api/predict and /api/image, whose body is an image file."""
    import anyio
    from fastapi import Request, Response

    threads = anyio.CapacityLimiter(THREADS)
    bodies = anyio.CapacityLimiter(BODIES)

    async def answer(request: Request, parse_query: Callable, function: Callable) -> dict | bytes:
        async with bodies:
            data = await read_image(request)
            query = parse_query(request.query_params)
            return await anyio.to_thread.run_sync(function, served, data, query, limiter=threads)

    @app.post("/api/predict")
    async def post_predict(request: Request) -> dict:
        return await answer(request, parse_patient, predict_image)

    @app.post("/api/image")
    async def post_image(request: Request) -> Response:
        return Response(await answer(request, parse_finding, draw_image), media_type="image/png")


def listen(port: int) -> socket.socket:
    """Listen on a port of this computer, which other computers cannot reach; 0 takes any free port.

    Raises:
        OSError: the port is in use or not allowed.
    """
    listener = socket.socket()
    listener.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # even if connections of a previous server are still closing
    try:
        listener.bind((HOSTS[0], port))
        listener.listen()  # a second server fails here, not after it has loaded its model
    except OSError as error:
        listener.close()
        raise OSError(f"port {port}: {error.strerror}. Give another: --port 7861") from error
    return listener


def run(served: Served, listener: socket.socket) -> None:
    """Answer requests until interrupted."""
    import uvicorn

    options = {"log_level": "warning", "access_log": False, "ws": "none", "limit_concurrency": CONNECTIONS}
    config = uvicorn.Config(make_app(served), timeout_graceful_shutdown=SHUTDOWN_SECONDS, **options)
    print(f"{served.name}: http://{HOSTS[0]}:{listener.getsockname()[1]} (stop with Ctrl-C)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
