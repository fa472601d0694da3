const PAUSE = 150; // milliseconds
// What is looked at: the contents of a file, or the number of a sample. It stays in the browser, which sends it anew
// with every question, so that the server keeps nothing.
let image = null;
const chosen = element.querySelector(".chosen");

let pending = null;

// Fields changed one right after another make one question: of several under way at once Gradio can lose the last.
function ask(finding) {
  clearTimeout(pending);
  pending = setTimeout(() => send(finding), PAUSE);
}

function send(finding) {
  if (!image) return;
  const question = { ...image, finding };
  for (const field of element.querySelectorAll("[data-patient]")) question[field.dataset.patient] = field.value;
  trigger("look", question);
}

function name(text, sample) {
  chosen.textContent = text;
  chosen.hidden = false;
  for (const button of element.querySelectorAll("[data-sample]"))
    button.setAttribute("aria-pressed", String(button.dataset.sample === String(sample)));
}

function take(file) {
  name(file.name, null);
  if (file.size > MAX_BYTES) {
    image = { too_large: true };
    return ask(null);
  }
  const reader = new FileReader();
  reader.onloadend = () => {
    image = { data: reader.error ? null : reader.result.slice(reader.result.indexOf(",") + 1) };
    ask(null);
  };
  reader.readAsDataURL(file);
}

element.addEventListener("change", (event) => {
  if (event.target.dataset.patient) return ask(null);
  if (event.target.files.length) take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sample]");
  if (!button) return;
  image = { sample: Number(button.dataset.sample) };
  name("", button.dataset.sample);
  chosen.hidden = true;
  ask(null);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element.classList.add("over");
});
document.addEventListener("dragleave", () => element.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault(); // anywhere: a browser would leave the page for the file
  element.classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
document.addEventListener("cxr:finding", (event) => ask(event.detail));
