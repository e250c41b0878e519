/* "Break it yourself": beside an equation a switch that puts a misprint in, its check computed anew, here, in double precision.

   <div class="break" data-equation="7"> holds a list of the misprints, written when the book is built (book/_ext/breaks.py); this script makes
   it a row of switches, a seal and a curve. Each equation below is computed twice: as it is printed, with the misprint if there is one, and by
   another way; the check is the largest difference of the two. A test holds every number against ddpm_core. */

const Break = (() => {
  "use strict";
  const { sqrt, abs, exp, PI } = Math, T = 1000;
  const beta = [0], alpha = [1], bar = [1]; // the paper's schedule, t = 0..T
  for (let t = 1; t <= T; t++) {
    beta[t] = 1e-4 + ((0.02 - 1e-4) * (t - 1)) / (T - 1);
    alpha[t] = 1 - beta[t];
    bar[t] = bar[t - 1] * alpha[t];
  }
  const times = (from) => Array.from({ length: T - from + 1 }, (_, i) => from + i);
  const x0 = 0.8, eps = -1.3; // one pixel and one noise
  const xt = (t) => sqrt(bar[t]) * x0 + sqrt(1 - bar[t]) * eps; // (4)
  const posterior = (t, x0, x) => (sqrt(bar[t - 1]) * beta[t] * x0 + sqrt(alpha[t]) * (1 - bar[t - 1]) * x) / (1 - bar[t]); // (7)

  // erf to the last digits: a series near 0, a continued fraction beyond.
  function erf(x) {
    if (x < 0) return -erf(-x);
    if (x > 6) return 1;
    if (x < 2.5) {
      let term = x, sum = x;
      for (let n = 1; abs(term) > 1e-17 * sum; n++) { term *= (2 * x * x) / (2 * n + 1); sum += term; }
      return (2 / sqrt(PI)) * exp(-x * x) * sum;
    }
    let tail = 0;
    for (let k = 60; k > 0; k--) tail = k / 2 / (x + tail);
    return 1 - exp(-x * x) / sqrt(PI) / (x + tail);
  }
  const below = (x, mean, std) => (x === Infinity ? 1 : x === -Infinity ? 0 : (1 + erf((x - mean) / std / sqrt(2))) / 2);

  // For each equation: x, what stands on its axis, and for a misprint ("" for none) `mine` and `theirs` at each x.
  const EQUATIONS = {
    2: {
      x: times(0), axis: "t", allowed: 1e-12,
      run(wrong) { // the variance of x_t, step by step, of data with variance one
        const factor = { "": (b) => sqrt(1 - b), root: (b) => 1 - b, none: () => 1 }[wrong];
        let v = 1;
        return { mine: this.x.map((t) => (t ? (v = factor(beta[t]) ** 2 * v + beta[t]) : v)), theirs: this.x.map(() => 1) };
      },
    },
    4: {
      x: times(0), axis: "t", allowed: 1e-12,
      run(wrong) { // against Eq. (2) taken t times
        const mine = { "": xt, variance: (t) => sqrt(bar[t]) * x0 + (1 - bar[t]) * eps, alpha: (t) => sqrt(alpha[t]) * x0 + sqrt(1 - alpha[t]) * eps,
          under: (t) => sqrt(bar[t]) * x0 + sqrt((1 - bar[t]) * abs(eps)) }[wrong];
        let m = 1, v = 0;
        const theirs = this.x.map((t) => { if (t) { m *= sqrt(1 - beta[t]); v = (1 - beta[t]) * v + beta[t]; } return m * x0 + sqrt(v) * eps; });
        return { mine: this.x.map(mine), theirs };
      },
    },
    7: {
      x: times(2), axis: "t", allowed: 1e-12,
      run(wrong) { // without noise one step back is known: x_0 = 1, x_t = sqrt(alpha_bar_t), so sqrt(alpha_bar_{t-1})
        const one = 1, here = (t) => sqrt(bar[t]);
        const mine = {
          "": (t) => posterior(t, one, here(t)),
          denominator: (t) => posterior(t, one, here(t)) * (1 - bar[t]),
          index: (t) => (sqrt(bar[t]) * beta[t] * one + sqrt(alpha[t]) * (1 - bar[t]) * here(t)) / (1 - bar[t]),
          alpha: (t) => (sqrt(bar[t - 1]) * beta[t] * one + sqrt(bar[t]) * (1 - bar[t - 1]) * here(t)) / (1 - bar[t]),
          exchanged: (t) => (sqrt(alpha[t]) * (1 - bar[t - 1]) * one + sqrt(bar[t - 1]) * beta[t] * here(t)) / (1 - bar[t]),
        }[wrong];
        return { mine: this.x.map(mine), theirs: this.x.map((t) => sqrt(bar[t - 1])) };
      },
    },
    10: {
      x: times(1), axis: "t", allowed: 1e-12,
      run(wrong) { // against Eq. (7), which is told x_0
        const over = { "": (t) => (beta[t] / sqrt(1 - bar[t])) * eps, under: (t) => beta[t] / sqrt((1 - bar[t]) * abs(eps)), root: (t) => (beta[t] / (1 - bar[t])) * eps }[wrong];
        return { mine: this.x.map((t) => (xt(t) - over(t)) / sqrt(alpha[t])), theirs: this.x.map((t) => posterior(t, x0, xt(t))) };
      },
    },
    11: {
      x: times(1), axis: "t", allowed: 1e-12,
      run(wrong) { // against Eq. (7) at the x_0 that Eq. (15) finds
        const right = (t) => (beta[t] / sqrt(1 - bar[t])) * eps;
        const mine = { "": (t) => (xt(t) - right(t)) / sqrt(alpha[t]), front: (t) => (xt(t) - right(t)) / sqrt(bar[t]), sign: (t) => (xt(t) + right(t)) / sqrt(alpha[t]),
          alpha: (t) => (xt(t) - (beta[t] / sqrt(1 - alpha[t])) * eps) / sqrt(alpha[t]), beta: (t) => (xt(t) - (sqrt(beta[t]) / sqrt(1 - bar[t])) * eps) / sqrt(alpha[t]) }[wrong];
        return { mine: this.x.map(mine), theirs: this.x.map((t) => posterior(t, (xt(t) - sqrt(1 - bar[t]) * eps) / sqrt(bar[t]), xt(t))) };
      },
    },
    12: {
      x: times(1), axis: "t", allowed: 1e-12,
      run(wrong) { // the weight, sigma^2 = beta; against Eq. (8), when eps_theta is wrong by one
        const mine = { "": (t) => beta[t] ** 2 / (2 * beta[t] * alpha[t] * (1 - bar[t])), alpha: (t) => beta[t] ** 2 / (2 * beta[t] * (1 - bar[t])),
          root: (t) => beta[t] ** 2 / (2 * beta[t] * alpha[t] * sqrt(1 - bar[t])), square: (t) => beta[t] / (2 * beta[t] * alpha[t] * (1 - bar[t])) }[wrong];
        const moved = (t) => posterior(t, -sqrt(1 - bar[t]) / sqrt(bar[t]), 0); // what an error of one in eps does to the mean
        return { mine: this.x.map(mine), theirs: this.x.map((t) => moved(t) ** 2 / (2 * beta[t])) };
      },
    },
    13: {
      x: Array.from({ length: 256 }, (_, i) => i), axis: "grey level", allowed: 1e-12, mean: 0.3, std: 0.4,
      run(wrong) { // the probability of each level; against an integral by Simpson's rule
        const { mean, std } = this, half = 1 / 255, level = (i) => -1 + 2 * i * half;
        const left = (i) => (i === 0 ? -Infinity : level(i) - half), right = (i) => (i === 255 ? Infinity : level(i) + half);
        const between = (a, b, s = std) => below(b, mean, s) - below(a, mean, s);
        const mine = { "": (i) => between(left(i), right(i)), ends: (i) => between(level(i) - half, level(i) + half), shifted: (i) => between(left(i) + half, right(i) + half),
          twice: (i) => between(left(i) - half, right(i) + half), variance: (i) => between(left(i), right(i), std ** 2) }[wrong];
        const density = (x) => exp(-(((x - mean) / std) ** 2) / 2) / std / sqrt(2 * PI);
        const simpson = (a, b) => { const n = 2 * Math.ceil(120 * (b - a) / std) + 200, h = (b - a) / n; let s = density(a) + density(b);
          for (let k = 1; k < n; k++) s += (k % 2 ? 4 : 2) * density(a + k * h); return (s * h) / 3; };
        return { mine: this.x.map(mine), theirs: this.x.map((i) => simpson(Math.max(left(i), mean - 12 * std), Math.max(mean - 12 * std, Math.min(right(i), mean + 12 * std)))) };
      },
    },
    15: {
      x: times(1), axis: "t", allowed: 1e-12,
      run(wrong) { // there by Eq. (4) and back: x_0
        const mine = { "": (t) => (xt(t) - sqrt(1 - bar[t]) * eps) / sqrt(bar[t]), undivided: (t) => xt(t) - sqrt(1 - bar[t]) * eps,
          alpha: (t) => (xt(t) - sqrt(1 - alpha[t]) * eps) / sqrt(alpha[t]), variance: (t) => (xt(t) - (1 - bar[t]) * eps) / sqrt(bar[t]) }[wrong];
        return { mine: this.x.map(mine), theirs: this.x.map(() => x0) };
      },
    },
  };
  function check(number, wrong) {
    const equation = EQUATIONS[number], { mine, theirs } = equation.run(wrong);
    return { mine, theirs, x: equation.x, off: Math.max(...mine.map((v, i) => abs(v - theirs[i]))), allowed: equation.allowed };
  }

  // ---- What the reader sees.
  const power = (v) => { const [digits, to] = v.toExponential(1).split("e"); return v === 0 ? "0" : abs(+to) < 4 ? v.toPrecision(4) : `${digits === "1.0" ? "" : digits + "\u2009\u00b7\u2009"}10<sup>${to.replace("+", "").replace("-", "\u2212")}</sup>`; };
  function seal(name, off, allowed) {
    const holds = off <= allowed, part = off ? 75 * (1 + Math.log10(off / allowed) / 16) : 0;
    return `<li class="seal ${holds ? "held" : "broken"}"><span class="seal-name">${name}</span><span class="seal-said"><span class="seal-bar" aria-hidden="true"
      style="--part:${Math.round(Math.min(100, Math.max(0, part)))}%;--tick:75%"></span><span>${holds ? "off" : "fails: off"} by ${power(off)}, allowed ${power(allowed)}</span></span></li>`;
  }
  function curve({ x, mine, theirs, off }, axis, said) {
    const w = 340, h = 150, l = 46, b = 28, all = [...mine, ...theirs].filter(Number.isFinite);
    let low = Math.min(...all), high = Math.max(...all);
    if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
    const px = (v) => l + ((w - l - 8) * (v - x[0])) / (x[x.length - 1] - x[0]), py = (v) => 8 + ((h - b - 8) * (high - v)) / (high - low);
    const line = (ys) => "M" + ys.map((v, i) => `${px(x[i]).toFixed(1)} ${py(v).toFixed(1)}`).join("L");
    const round = (v) => +v.toPrecision(2);
    return `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${said}"><path d="M${l} 8V${h - b}H${w - 8}" fill="none" stroke="currentColor" stroke-width=".8"/>
      <path d="${line(mine)}" fill="none" stroke="var(--book-model)" stroke-width="2.2"/><path d="${line(theirs)}" fill="none" stroke="currentColor" stroke-width="1.4" stroke-dasharray="5 4"/>
      <text x="${l - 5}" y="14" text-anchor="end">${round(high)}</text><text x="${l - 5}" y="${h - b}" text-anchor="end">${round(low)}</text>
      <text x="${l}" y="${h - 8}">${x[0]}</text><text x="${w - 8}" y="${h - 8}" text-anchor="end">${x[x.length - 1]}</text><text x="${(l + w) / 2}" y="${h - 8}" text-anchor="middle">${axis}</text></svg>`;
  }
  let count = 0;
  function start(root) {
    const number = root.dataset.equation, equation = EQUATIONS[number], items = [...root.querySelectorAll("li[data-misprint]")];
    if (!equation || !items.length) return;
    const name = `break-${number}-${count++}`, field = document.createElement("fieldset"), out = document.createElement("div"), legend = document.createElement("legend");
    legend.textContent = `Break Eq. (${number})`;
    field.append(legend);
    const options = [["", root.dataset.right || "as it is printed"], ...items.map((li) => [li.dataset.misprint, li.querySelector(".break-name").textContent])];
    options.forEach(([wrong, words], i) => {
      const label = document.createElement("label"), input = Object.assign(document.createElement("input"), { type: "radio", name, value: wrong, checked: i === 0 });
      label.append(input, document.createTextNode(words));
      field.append(label);
    });
    out.className = "break-out";
    out.setAttribute("aria-live", "polite");
    const list = root.querySelector("ul");
    const show = () => {
      const wrong = field.querySelector("input:checked").value, words = options.find(([w]) => w === wrong)[1], got = check(number, wrong);
      items.forEach((li) => (li.hidden = li.dataset.misprint !== wrong));
      const formula = items.find((li) => li.dataset.misprint === wrong)?.querySelector(".math")?.outerHTML ?? root.querySelector(".break-right")?.innerHTML ?? "";
      const said = wrong ? "Orange: with the misprint. Dashed: as it has to be." : "Orange and dashed lie on each other.";
      out.innerHTML = `<div class="break-formula">${formula}</div><ul class="seals">${seal(`Eq. (${number}), ${words}`, got.off, got.allowed)}</ul>
        <figure>${curve(got, equation.axis, `${root.dataset.shows}. ${said}`)}<figcaption>${root.dataset.shows}. ${said}</figcaption></figure>`;
    };
    field.addEventListener("change", show);
    field.addEventListener("keydown", (event) => event.stopPropagation()); // the theme turns pages with the arrow keys
    list.hidden = true;
    root.querySelectorAll(".break-right, .break-still").forEach((part) => (part.hidden = true));
    root.prepend(field);
    root.append(out);
    root.classList.add("live");
    show();
  }
  const ready = () => document.querySelectorAll(".break[data-equation]").forEach(start);
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", ready) : ready();
  return { EQUATIONS, check, erf };
})();
window.Break = Break;
