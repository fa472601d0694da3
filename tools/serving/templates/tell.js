let clicked = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-finding]");
  if (!button) return;
  clicked = button.dataset.finding;
  const shown = button.getAttribute("aria-pressed") === "true";
  document.dispatchEvent(new CustomEvent("cxr:finding", { detail: shown ? null : clicked }));
});
watch("value", () => {
  // The button that had the focus is gone; who works by keyboard goes on from its successor.
  if (clicked) element.querySelector(`[data-finding="${clicked}"]`)?.focus({ preventScroll: true });
  clicked = null;
  // On a phone the answer begins below what can be seen.
  if (matchMedia("(max-width: 48rem)").matches) element.scrollIntoView({ block: "start" });
});
