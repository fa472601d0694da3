"""The page: what it asks on the left, what the model says on the right. Gradio carries one to the other."""

import base64
import functools
import math
import pathlib
from typing import TYPE_CHECKING

from cxr.data.entries import OLDEST
from cxr.data.images import ImageError
from cxr.data.pictures import Picture
from cxr.evaluation import overlays, readings
from cxr.evaluation.operating import OperatingPoints
from cxr.evaluation.readings import Reading
from cxr.findings import FINDINGS
from tools.serving.asked import ImpossiblePatient, finding_of, image_of, patient_of
from tools.serving.gate import MAX_BYTES
from tools.serving.samples import Sample, draw_samples

if TYPE_CHECKING:
    import fastapi

    from tools.serving.app import Served

TEMPLATES = pathlib.Path(__file__).parent / "templates"
WAITING = 16  # questions that Gradio holds in memory at most; one is in work, so that answers come in their order


def render(template: str, **content: object) -> str:
    """A part of the page as HTML; whatever is put into a template is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**content)


def mount_page(app: "fastapi.FastAPI", served: "Served") -> None:
    """Put the page at /."""
    import gradio

    samples = draw_samples()

    def look(event: gradio.EventData) -> str:
        return told(served, samples, event._data if isinstance(event._data, dict) else {})

    script = functools.partial(pathlib.Path.read_text, encoding="utf-8")
    buttons = [{"name": sample.name, "uri": data_uri(sample.button, "jpeg")} for sample in samples]
    limits = {"megabytes": MAX_BYTES >> 20, "oldest": OLDEST, "metadata": served.predictor.params.metadata}
    html = functools.partial(gradio.HTML, apply_default_css=False)
    with gradio.Blocks(analytics_enabled=False, title=f"Chest X-ray findings: {served.name}", fill_width=True) as page:
        html(render("intro.html", name=served.name))
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                form = render("ask.html", samples=buttons, **limits)
                ask = html(form, js_on_load=script(TEMPLATES / "ask.js").replace("MAX_BYTES", str(MAX_BYTES)))
            with gradio.Column(scale=3, min_width=320):
                live = "<div id='told' aria-live='polite'>${value}</div>"
                tell = html(render("nothing.html"), html_template=live, js_on_load=script(TEMPLATES / "tell.js"))
        html(render("limits.html"))
        # "always_last" would be the mode to choose, but Gradio 6.31 forgets what was asked when it puts off an event.
        ask.look(look, outputs=tell, api_visibility="private", trigger_mode="multiple", show_progress="minimal")
    page.queue(default_concurrency_limit=1, max_size=WAITING, api_open=False)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # not Google's
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,  # or every image asked about would be kept in the browser
        show_error=False,
        ssr_mode=False,
        theme=gradio.themes.Default(**fonts),
        css=script(TEMPLATES / "style.css"),
    )


def told(served: "Served", samples: list[Sample], asked: dict) -> str:
    """The right side of the page, for what the left side asks. Nothing of it is kept.

    Args:
        asked: {"data": base64} or {"sample": number}, and perhaps "age", "sex", "view", and "finding" for its heat map.
    """
    predictor = served.predictor
    try:
        data = image_of(asked, samples)
        patient = patient_of(asked.get("age"), asked.get("sex"), asked.get("view"))
        picture = predictor.read(data, patient)
    except ImpossiblePatient as error:
        return render("refused.html", what="This patient is impossible", why=str(error))
    except (ImageError, ImportError) as error:  # ImportError: DICOM without pydicom
        return render("refused.html", what="This image cannot be read", why=str(error))
    reading, finding = predictor.predict([picture])[0], finding_of(asked)
    png = predictor.overlay(picture, finding) if finding else plain(picture)
    rows = rows_of(reading, predictor.points)
    return render(
        "told.html",
        image=data_uri(png, "png"),
        finding=finding,
        readable=readable,
        warnings=picture.warnings,
        above=[row for row in rows if row["called"]],
        below=[row for row in rows if row["called"] is False],
        unknown=[row for row in rows if row["called"] is None],
        advice=served.advice if predictor.points.is_empty else "",
    )


def rows_of(reading: Reading, points: OperatingPoints) -> list[dict]:
    """What is shown of every finding, likeliest first."""
    marks = points.calibrated(points.thresholds)
    rows = [
        {
            "finding": FINDINGS[place],
            "calibrated": reading.calibrated[place],
            "percent": readings.percent(reading.calibrated[place]),
            "mark": None if math.isnan(marks[place]) else 100 * marks[place],
            "from": None if math.isnan(marks[place]) else readings.percent(marks[place]),
            "called": reading.calls[place],
        }
        for place in range(len(FINDINGS))
    ]
    return sorted(rows, key=lambda row: -row["calibrated"])


def readable(finding: str) -> str:
    """Pleural_Thickening as people write it."""
    return finding.replace("_", " ").capitalize()


def plain(picture: Picture) -> bytes:
    """The image as it came, as a PNG of the size of an overlay."""
    import cv2

    return cv2.imencode(".png", overlays.fitted(picture.pixels)[..., 0])[1].tobytes()


def data_uri(data: bytes, kind: str) -> str:
    """An image within the page, so that it has no address from which somebody else could fetch it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
