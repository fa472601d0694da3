// The chosen image stays in the browser and is sent with every request, so the server stores nothing.
import { element, findingNodes, notice, readable, strangerNotice } from "./findings.js";

const $ = (id) => document.getElementById(id);
const form = $("form");
const result = $("result");
let image = null; // ArrayBuffer: the chosen file or sample
let choices = 0; // number of images chosen; a slow one must not replace a later one
let pending = new AbortController(); // for the latest requests; earlier ones are aborted

class Rejection extends Error {} // message: the text in bold; cause: the reason

async function post(path, query = {}) {
  const filled = Object.entries(query).filter(([, value]) => value !== "");
  const options = { method: "POST", body: image, signal: pending.signal };
  const response = await fetch(`${path}?${new URLSearchParams(filled)}`, options);
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  if (!detail) throw new Rejection("The server failed:", { cause: `status ${response.status}; see its terminal` });
  const invalid = response.status === 422; // an impossible age, for example
  throw new Rejection(invalid ? "These patient inputs are not valid:" : "This image cannot be read:", { cause: detail });
}

/** Abort the previous requests and send new ones; show an error if they fail, unless newer ones have replaced them. */
async function send(requests) {
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  result.setAttribute("aria-busy", "true");
  try {
    await requests(signal);
  } catch (error) {
    if (signal.aborted) return;
    const rejected = error instanceof Rejection;
    showError(rejected ? error.message : "No answer:", rejected ? error.cause : "is the server still running in its terminal?");
  }
  if (signal.aborted) return;
  result.removeAttribute("aria-busy");
  result.inert = false;
  // On a phone the answer is below the visible part of the page.
  if (matchMedia("(max-width: 48rem)").matches) result.scrollIntoView({ block: "start" });
}

function show(id) {
  for (const part of ["empty", "error", "answer"]) $(part).hidden = part !== id;
}

function showError(bold, text) {
  $("error").replaceChildren(...notice(bold, text).childNodes);
  $("status").textContent = "";
  result.removeAttribute("aria-busy");
  result.inert = false;
  show("error");
}

/** Get the predictions and the plain image, and show them. */
function predict() {
  if (!image) return;
  result.inert = true;
  send(async (signal) => {
    const fields = $("patient").hidden ? [] : form.querySelectorAll("[name]");
    const patient = Object.fromEntries([...fields].map((field) => [field.name, field.value]));
    const [answer, picture] = await Promise.all([
      post("api/predict", patient).then((response) => response.json()),
      post("api/image").then((response) => response.blob()),
    ]);
    if (signal.aborted) return;
    const isStranger = answer.out_of_distribution === 1;
    const warnings = answer.warnings.map((text) => notice("Unlike the training images:", text));
    if (isStranger) warnings.unshift(strangerNotice(answer));
    if (model.distances_advice) warnings.push(notice("Warning:", model.distances_advice));
    const advice = "No operating points yet, so nothing is called or calibrated. Run:";
    if (model.advice) warnings.push(notice(advice, model.advice, "code"));
    $("warnings").replaceChildren(...warnings);
    $("findings").replaceChildren(...findingNodes(answer.findings, { hasPoints: !model.advice, isStranger }));
    showPicture(picture, null);
    const called = Object.keys(answer.findings).filter((finding) => answer.findings[finding].call).map(readable);
    $("status").textContent = isStranger
      ? "Done. Out of distribution: no finding is called."
      : `Done. At or above the operating point: ${called.join(", ") || "none"}.`;
    show("answer");
  });
}

/** Show the heat map of a finding, or the plain image again for null. */
function showHeatMap(finding) {
  send(async (signal) => {
    const picture = await post("api/image", { finding: finding ?? "" }).then((response) => response.blob());
    if (!signal.aborted) showPicture(picture, finding);
  });
}

function showPicture(blob, finding) {
  URL.revokeObjectURL($("image").src);
  $("image").src = URL.createObjectURL(blob);
  $("image").alt = finding ? `The X-ray with the heat map of ${readable(finding)}` : "The X-ray";
  const help = ": yellow areas raised this probability the most. Click the finding again for the plain image.";
  if (finding) $("caption").replaceChildren(element("strong", readable(finding)), help);
  else $("caption").textContent = "Click a finding for its heat map.";
  for (const button of $("findings").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.finding === finding));
}

/** Choose an image; `load` returns a promise of its ArrayBuffer. */
async function choose(name, sample, load) {
  const choice = ++choices;
  $("chosen").textContent = name;
  $("chosen").hidden = !name;
  for (const button of $("samples").children) button.setAttribute("aria-pressed", String(button === sample));
  pending.abort();
  result.inert = true; // its buttons belong to the previous image
  try {
    const loaded = await load();
    if (choice !== choices) return;
    image = loaded;
    predict();
  } catch (error) {
    if (choice !== choices) return;
    image = null;
    showError("This image cannot be read:", error.cause ?? "loading failed; choose it again");
  }
}

function chooseFile(file) {
  choose(file.name, null, async () => {
    if (file.size > model.max_bytes) {
      const cause = `larger than ${model.max_bytes >> 20} MB, which is more than a radiograph needs`;
      throw new Rejection("", { cause });
    }
    return file.arrayBuffer();
  });
}

function addSample(name, number) {
  const button = $("sample").content.firstElementChild.cloneNode(true);
  const url = `samples/${number}.png`;
  button.dataset.sample = number;
  button.querySelector("img").src = url;
  button.querySelector("span").textContent = name;
  button.addEventListener("click", () => choose("", button, async () => (await fetch(url)).arrayBuffer()));
  $("samples").append(button);
}

const model = await (await fetch("api/model")).json();
document.title = `Chest X-ray findings: ${model.experiment}`;
$("name").textContent = model.experiment;
$("megabytes").textContent = model.max_bytes >> 20;
$("dataset").textContent = `The model was trained on ${model.dataset.csv}, split ${model.dataset.split}, ` +
  `dataset ${model.dataset.fingerprint.slice(0, 12)}.`;
$("patient").hidden = !model.metadata;

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", ({ target }) => {
  if (target.name) return predict();
  if (target.files.length) chooseFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
$("findings").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) showHeatMap(button.getAttribute("aria-pressed") === "true" ? null : button.dataset.finding);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
document.addEventListener("dragleave", () => form.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault(); // a browser would open the file in place of the page
  form.classList.remove("over");
  if (event.dataTransfer.files.length) chooseFile(event.dataTransfer.files[0]);
});
model.samples.forEach(addSample);
