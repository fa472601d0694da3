"""The web application: Gradio's page at /, the JSON endpoint at /api/predict, and the gate before both."""

import os
import pathlib
import socket
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from cxr.data.images import ImageError
from cxr.evaluation import readings
from predictor import Predictor
from tools.serving.asked import ImpossiblePatient, patient_of
from tools.serving.gate import ENDPOINT, HOSTS, Gate

if TYPE_CHECKING:
    import fastapi

DECODED_AT_ONCE = 4  # images; one of 64 million pixels takes about 200 MB while it is resized
SECONDS_TO_END = 2  # for requests that are being answered when the server is told to stop


class Served(NamedTuple):
    """A model, and what it is called."""

    predictor: Predictor
    name: str  # of the experiment
    checkpoint: str
    advice: str  # the command that makes operating points


def answer(served: Served, data: bytes, patient: tuple) -> dict:
    """What the endpoint says of an image file. Raises ImageError or ImportError as `Predictor.read` does."""
    picture = served.predictor.read(data, patient)
    found = readings.as_json(served.predictor.predict([picture])[0], served.predictor.points)
    about = {"experiment": served.name, "checkpoint": served.checkpoint, "clinical_use": False}
    return about | {"warnings": list(picture.warnings), "findings": found}


def make_app(served: Served, page_folder: pathlib.Path) -> "fastapi.FastAPI":
    """Put page, endpoint and gate together.

    Args:
        page_folder: for what Gradio keeps on disk; images are never in it, as its uploads are shut off.
    """
    os.environ |= {"GRADIO_TEMP_DIR": str(page_folder), "GRADIO_ANALYTICS_ENABLED": "False"}  # before it is imported
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from tools.serving.page import mount_page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # those pages load scripts from elsewhere
    add_endpoint(app, served)
    mount_page(app, served)
    app.add_middleware(Gate)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return app


def add_endpoint(app: "fastapi.FastAPI", served: Served) -> None:
    """POST an image file, as it is, to /api/predict?age=58&sex=F&view=PA; errors are {"detail": why}."""
    import anyio
    from fastapi import HTTPException, Request

    limiter = anyio.CapacityLimiter(DECODED_AT_ONCE)

    @app.post(ENDPOINT)
    async def predict(request: Request, age: str = "", sex: str = "", view: str = "") -> dict:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "send the file itself as the body, not a form: curl --data-binary @FILE")
        data = await request.body()
        try:
            patient = patient_of(age, sex, view)
            return await anyio.to_thread.run_sync(answer, served, data, patient, limiter=limiter)
        except ImpossiblePatient as error:
            raise HTTPException(422, str(error)) from error
        except ImageError as error:
            raise HTTPException(400, str(error)) from error
        except ImportError as error:  # DICOM without pydicom
            raise HTTPException(501, str(error)) from error


def listen(port: int) -> socket.socket:
    """Take a port of this machine, which no other machine can reach; 0 is any free one.

    Raises:
        OSError: it is taken, or not to be had.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not wait for the last server's connections
    try:
        listener.bind((HOSTS[0], port))
        listener.listen()  # so that a second server is told now, not when its model is loaded
    except OSError as error:
        listener.close()
        raise OSError(f"port {port}: {error.strerror}. Give another: --port 7861") from error
    return listener


def run(served: Served, listener: socket.socket) -> None:
    """Answer until interrupted."""
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="cxr14-page-") as folder:
        app = make_app(served, pathlib.Path(folder))
        options = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": SECONDS_TO_END}
        print(f"{served.name}: http://{HOSTS[0]}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])
