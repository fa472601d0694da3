// Show the answer of /api/predict: warnings, and the 14 findings in up to three groups, likeliest first.
// Text is only set as textContent, so nothing in a file or an answer can become markup.

export const readable = (finding) => (finding[0] + finding.slice(1).toLowerCase()).replaceAll("_", " ");

/** Whole percent, as predict.py prints it; "<1" and ">99" near the ends, because no probability is exactly 0 or 1. */
export function percent(probability) {
  if (probability < 0.005) return "<1";
  return probability >= 0.995 ? ">99" : (100 * probability).toFixed(0);
}

export function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

/** A notice: a few words in bold, then the text. */
export function notice(bold, text, tag = "span") {
  const made = element("p", "", "notice");
  made.append(element("strong", bold), " ", element(tag, text));
  return made;
}

/** The banner of an image that is out of distribution. */
export function strangerNotice({ distance, distance_threshold: threshold }) {
  const far = threshold !== null && distance > threshold;
  const measured = far ? ` Its distance from them is ${distance.toFixed(1)}, the limit is ${threshold.toFixed(1)}.` : "";
  const made = notice("Out of distribution:",
    `this does not look like the frontal chest X-rays of training, so no finding is called.${measured}`);
  made.classList.add("stranger");
  return made;
}

function row(finding, { calibrated, calibrated_threshold: threshold, call }) {
  const made = document.getElementById("row").content.firstElementChild.cloneNode(true);
  const part = (name) => made.querySelector(name);
  const button = part("button");
  button.dataset.finding = finding;
  button.classList.toggle("called", call === true);
  part(".name").textContent = readable(finding);
  part(".fill").style.width = `${100 * calibrated}%`;
  part(".percent").textContent = `${percent(calibrated)} %`;
  if (threshold === null) part(".mark").remove();
  else {
    part(".mark").style.left = `${100 * threshold}%`;
    part(".from").textContent = `from ${percent(threshold)} %`;
  }
  return made;
}

function list(rows) {
  const made = element("ul", "");
  made.append(...rows.map(([finding, numbers]) => row(finding, numbers)));
  return made;
}

/** The list of findings, as nodes.
 * hasPoints: whether the model has any operating points. isStranger: the image is out of distribution. */
export function findingNodes(findings, { hasPoints, isStranger }) {
  const rows = Object.entries(findings).sort(([, a], [, b]) => b.calibrated - a.calibrated);
  const [above, below, unknown] = [true, false, null].map((call) => rows.filter(([, numbers]) => numbers.call === call));
  const nodes = [];
  if (isStranger) return [element("h2", "Not called: the numbers mean nothing for such an image"), list(rows)];
  if (hasPoints) {
    nodes.push(element("h2", "At or above the operating point"));
    nodes.push(above.length ? list(above) : element("p", "None of the 14. This does not mean that the patient is healthy."));
  }
  if (below.length) nodes.push(element("h2", "Below the operating point"), list(below));
  if (unknown.length) nodes.push(element("h2", "Without an operating point"), list(unknown));
  if (hasPoints) {
    const text = "The vertical line is the operating point; at or above it the finding is called. Operating points and " +
      "calibration were fitted on the validation images.";
    nodes.push(element("p", text, "quiet"));
  }
  return nodes;
}
