// Show an answer of /api/predict: warnings, and the 14 findings likeliest first in up to three groups.
// Text enters the page as textContent only, so nothing in a file or an answer can become markup.

export const readable = (finding) => (finding[0] + finding.slice(1).toLowerCase()).replaceAll("_", " ");

/** Whole percent, as predict.py prints it: what would read as none or all although it is not is "<1" or ">99". */
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

/** A notice that begins with a few words in bold. */
export function notice(bold, text, tag = "span") {
  const made = element("p", "", "notice");
  made.append(element("strong", bold), " ", element(tag, text));
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

/** The nodes that list the findings; `hasPoints` says whether the model has operating points at all. */
export function findingNodes(findings, hasPoints) {
  const rows = Object.entries(findings).sort(([, a], [, b]) => b.calibrated - a.calibrated);
  const [above, below, unknown] = [true, false, null].map((call) => rows.filter(([, numbers]) => numbers.call === call));
  const nodes = [];
  if (hasPoints) {
    nodes.push(element("h2", "At or above the operating point"));
    nodes.push(above.length ? list(above) : element("p", "None of the 14. That does not mean healthy."));
  }
  if (below.length) nodes.push(element("h2", "Below it"), list(below));
  if (unknown.length) nodes.push(element("h2", "Without an operating point"), list(unknown));
  if (hasPoints) {
    const text = "The upright line is the operating point: from there on the finding is called. Lines and probabilities " +
      "were fitted to the validation images.";
    nodes.push(element("p", text, "quiet"));
  }
  return nodes;
}
