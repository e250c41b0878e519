// What the theme's pages lack for readers who do not see or do not point. Nothing here is needed to read.
"use strict";
// Names that differ from what the button shows cannot be spoken to: of the search button its words are the name, of the other its icons are not.
document.querySelectorAll(".search-button-field[aria-label]").forEach(button => button.removeAttribute("aria-label"));
document.querySelectorAll(".theme-switch, .search-button-field i").forEach(icon => icon.setAttribute("aria-hidden", "true"));
// A formula's menu, by the right button of the mouse, a long touch, or, on a displayed one, Enter: its TeX, and MathJax's own menu with
// speech, zoom and MathML, which is loaded only now and sets all formulas of the page anew, as large as before.
(() => {
  let menu = null, loading = null, from = null;
  const close = () => { if (menu) { menu.remove(); if (from) from.focus(); } menu = null; };
  async function copy(tex, button) {
    try { await navigator.clipboard.writeText(tex); button.textContent = "Copied"; setTimeout(close, 700); }
    catch { close(); prompt("TeX", tex); } // a page from a disk may not write to the clipboard
  }
  function mathjax() {
    return loading ||= new Promise((done, failed) => {
      window.MathJax = {
        chtml: { matchFontHeight: false, scale: 1.1 },
        startup: { typeset: false, pageReady: () => Promise.resolve() },
      };
      const own = document.querySelector("script[src*='book.js']").src;
      document.head.append(Object.assign(document.createElement("script"), {
        src: new URL("mathjax/tex-chtml.js", own).href, onerror: failed,
        onload: () => MathJax.startup.promise.then(async () => {
          const all = [...document.querySelectorAll("article .math[data-tex]")];
          for (const box of all) {
            const display = box.localName === "div", tex = box.dataset.tex.replace(/\\tag\{[^}]*\}/g, "");
            box.querySelector("mjx-container").replaceWith(display ? `\\[${tex}\\]` : `\\(${tex}\\)`);
          }
          await MathJax.typesetPromise(all);
        }).then(done, failed),
      }));
    });
  }
  function open(box, x, y) {
    close();
    menu = Object.assign(document.createElement("div"), { className: "formula-menu" });
    menu.setAttribute("role", "group");
    menu.setAttribute("aria-label", "This formula");
    const add = (words, act) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: words });
      button.addEventListener("click", () => act(button));
      menu.append(button);
    };
    add("Copy as TeX", button => copy(box.dataset.tex, button));
    if (!loading) add("Speech, zoom, MathML …", button => {
      button.textContent = "Loading MathJax …";
      mathjax().then(() => { close(); const set = box.querySelector("mjx-container"); set.focus();
        set.dispatchEvent(new MouseEvent("contextmenu", { bubbles: true, cancelable: true, clientX: x - scrollX, clientY: y - scrollY })); },
        () => { loading = null; button.textContent = "MathJax could not be loaded"; });
    });
    from = box.tabIndex >= 0 ? box : null;
    menu.style.left = `${Math.max(4, Math.min(x, scrollX + innerWidth - 230))}px`;
    menu.style.top = `${y}px`;
    document.body.append(menu);
    menu.firstChild.focus();
  }
  document.querySelectorAll("div.math[data-tex]").forEach(box => { box.tabIndex = 0; box.setAttribute("role", "group"); box.setAttribute("aria-label", "Formula, Enter for its menu"); });
  document.addEventListener("contextmenu", event => {
    const box = event.target.closest?.(".math[data-tex]");
    if (!box || loading) return; // from then on it is MathJax's menu
    event.preventDefault();
    open(box, event.pageX, event.pageY);
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && menu) close();
    else if (event.key === "Enter" && event.target.matches?.("div.math[data-tex]")) {
      const at = event.target.getBoundingClientRect();
      open(event.target, at.left + scrollX, at.bottom + scrollY);
      event.preventDefault();
    }
  });
  document.addEventListener("pointerdown", event => { if (menu && !menu.contains(event.target)) close(); });
})();
// What scrolls sideways can be reached and scrolled by the arrow keys.
function reachWhatScrolls() {
  document.querySelectorAll(".bd-article :is(pre, table, div.math.numbered > mjx-container)").forEach(box => {
    if (box.scrollWidth > box.clientWidth + 1) box.setAttribute("tabindex", "0");
    else box.removeAttribute("tabindex");
  });
}
window.addEventListener("load", reachWhatScrolls);
window.addEventListener("resize", reachWhatScrolls);
// An algorithm is copied as numbered lines of text, its formulas as TeX.
document.querySelectorAll(".algorithm").forEach(box => {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
  const tex = new Map([...box.querySelectorAll(".math")].map(m => [m, m.dataset.tex]));
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
document.addEventListener("DOMContentLoaded", () => document.documentElement.classList.remove("can-draw")); // from here on the boxes know for themselves
// Of a slider's frames only the one that is shown comes with the page: the others when it is near the window, or is asked to move.
const near = new IntersectionObserver(found => found.forEach(f => {
  if (!f.isIntersecting) return;
  near.unobserve(f.target);
  f.target.querySelectorAll("img[loading]").forEach(img => { img.loading = "eager"; });
}), { rootMargin: "600px" });
document.querySelectorAll("figure.frames:has(img[loading])").forEach(figure => near.observe(figure));
// The landing page's pictures form by themselves, once, where the reader's system does not ask for less motion.
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) document.querySelectorAll(".opening figure.frames").forEach(figure => {
  const slider = figure.querySelector("input");
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
  const seen = new IntersectionObserver(found => {
    if (!found.some(f => f.isIntersecting)) return;
    seen.disconnect();
    setTimeout(() => figure.querySelector("button").click(), 600);
  });
  seen.observe(figure);
});
