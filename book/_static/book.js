// What the theme's pages lack for readers who do not see or do not point. Nothing here is needed to read.
"use strict";
// Names that differ from what the button shows cannot be spoken to: of the search button its words are the name, of the other its icons are not.
document.querySelectorAll(".search-button-field[aria-label]").forEach(button => button.removeAttribute("aria-label"));
document.querySelectorAll(".theme-switch, .search-button-field i").forEach(icon => icon.setAttribute("aria-hidden", "true"));
// MathJax puts each formula into the order of the tab key, hundreds on a page. Displays stay, for they scroll and have the menu with the
// speech; those in a line are left out until that speech is switched on, when MathJax sets them anew.
function shortenTabOrder() {
  document.querySelectorAll('mjx-container[tabindex="0"]:not([display="true"])').forEach(formula => formula.setAttribute("tabindex", "-1"));
}
(function whenSet() {
  if (window.MathJax && MathJax.startup && MathJax.startup.promise) MathJax.startup.promise.then(shortenTabOrder);
  else if (document.querySelector("script[src*='mathjax/']")) setTimeout(whenSet, 50);
})();
// What scrolls sideways can be reached and scrolled by the arrow keys.
function reachWhatScrolls() {
  document.querySelectorAll(".bd-article :is(pre, table)").forEach(box => {
    if (box.scrollWidth > box.clientWidth + 1) box.setAttribute("tabindex", "0");
    else box.removeAttribute("tabindex");
  });
}
window.addEventListener("load", reachWhatScrolls);
window.addEventListener("resize", reachWhatScrolls);
// An algorithm is copied as numbered lines of text, its formulas as TeX.
document.querySelectorAll(".algorithm").forEach(box => {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
  const tex = new Map([...box.querySelectorAll(".math")].map(m => [m, m.textContent.replace(/^\\\(|\\\)$/g, "")]));
  const lines = () => [box.querySelector("p"), ...box.querySelectorAll("li")].map((line, k) => {
    const plain = line.cloneNode(true), there = [...line.querySelectorAll(".math")];
    plain.querySelectorAll(".math").forEach((m, i) => m.replaceWith(`$${tex.get(there[i])}$`));
    return (k ? `${k}: ` : "") + plain.textContent.replace(/\u2003/g, "  ").replace(/\s*\n\s*/g, " ").trimEnd();
  });
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(lines().join("\n")); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(box); button.textContent = "Selected"; } // a page from a disk may not write to the clipboard
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  box.append(button);
});
