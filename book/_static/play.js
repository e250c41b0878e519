/* The three playgrounds, in the page: Eq. (4) on a picture of the reader's, sampling, and the bound of a schedule that the reader bends. The
   network and the sampler are those of draw.js; what is computed here is what ddpm_core/playgrounds.py computes with a kernel, and a test
   holds the two together. Numbers in parentheses are the paper's equations. */

const Play = (() => {
  "use strict";
  const { sqrt, log, log1p, expm1, exp, PI, abs, min, max } = Math;

  const linear = (T = 1000) => Array.from({ length: T }, (_, i) => 1e-4 + ((0.02 - 1e-4) * i) / (T - 1)); // beta_1..beta_T
  function bars(beta) { // alpha_bar_0..alpha_bar_T
    const bar = [1];
    beta.forEach((b, i) => bar.push(bar[i] * (1 - b)));
    return bar;
  }
  const noised = (x0, bar, eps) => x0.map((v, k) => sqrt(bar) * v + sqrt(1 - bar) * eps[k]); // (4)
  const seen = (x, bar, eps) => x.map((v, k) => (v - sqrt(1 - bar) * eps[k]) / sqrt(bar)); // (15)

  // `steps` of the times 1..last, at 1 + (last - 1) u^shape; two that fall on one time are moved apart. As `bend` does it.
  function bend(steps, shape, last) {
    const even = (x) => { const down = Math.floor(x); return x - down === 0.5 ? down + (down % 2) : Math.round(x); };
    const step = 1 / (steps - 1), u = (i) => (i < Math.floor(steps / 2) ? step * i : 1 - step * (steps - 1 - i));
    const times = Array.from({ length: steps }, (_, i) => even(1 + (last - 1) * u(i) ** shape));
    for (let i = 1; i < steps; i++) times[i] = max(times[i], times[i - 1] + 1);
    for (let i = steps - 1; i >= 0; i--) times[i] = min(times[i], last - (steps - 1 - i));
    return [0, ...times];
  }

  // The logarithm of the normal distribution's integral up to x, good to 1e-13 of itself from far below zero on.
  function logBelow(x) {
    if (x > 0) return log1p(-exp(logBelow(-x)));
    const z = -x / Math.SQRT2;
    if (z < 1.5) {
      let term = z, sum = z;
      for (let n = 1; abs(term) > 1e-18; n++) { term *= (2 * z * z) / (2 * n + 1); sum += term; }
      return log((1 - (2 / sqrt(PI)) * exp(-z * z) * sum) / 2);
    }
    let tail = 0;
    for (let k = 200; k > 0; k--) tail = k / 2 / (z + tail);
    return -z * z - log(2 * sqrt(PI) * (z + tail));
  }
  function logPixel(x0, mean, std) { // (13), in nats
    const level = Math.round((x0 + 1) * 127.5);
    let a = ((2 * level - 1) / 255 - 1 - mean) / std, b = ((2 * level + 1) / 255 - 1 - mean) / std;
    if (level === 0) return logBelow(b);
    if (level === 255) return logBelow(-a);
    if (a + b > 0) [a, b] = [-b, -a];
    const end = logBelow(b);
    return end + log(-expm1(logBelow(a) - end));
  }

  // Yields {i, bits}: the terms of (5) in bits a dimension, the mean over the pictures, from the last step to L_0; and at first the prior, as i = steps + 1.
  //   models  for each picture async (x, t) -> eps      bar  alpha_bar_0..T      noise  n -> n standard normal numbers, for all pictures at once
  async function* boundTerms(models, pictures, bar, times, { variance, noise }) {
    const n = pictures[0].length, all = pictures.length * n, steps = times.length - 1, at = (i) => bar[times[i]];
    const half = (ratio, square) => (ratio + square - 1 - log(ratio)) / 2; // the divergence of two Gaussians
    let prior = 0;
    for (const x0 of pictures) for (const v of x0) prior += half(1 - at(steps), at(steps) * v * v);
    yield { i: steps + 1, bits: prior / all / Math.LN2 };
    const tilde = (i) => ((1 - at(i - 1)) / (1 - at(i))) * (1 - at(i) / at(i - 1));
    for (let i = steps; i > 0; i--) {
      const now = at(i), before = at(i - 1), beta = 1 - now / before, eps = noise(all);
      const sigma2 = i === 1 ? (steps > 1 ? tilde(2) : beta) : variance === "beta_tilde" ? tilde(i) : beta;
      const ofX0 = (sqrt(before) * beta) / (1 - now); // (7); what stands before x_t is the same in both means
      let sum = 0;
      for (let p = 0; p < pictures.length; p++) {
        const x0 = pictures[p], x = Float32Array.from(noised(x0, now, eps.subarray(p * n, (p + 1) * n)));
        const guess = seen(x, now, await models[p](x, times[i]));
        for (let k = 0; k < n; k++)
          sum += i === 1 ? -logPixel(x0[k], guess[k], sqrt(sigma2)) : half(tilde(i) / sigma2, (ofX0 * (x0[k] - guess[k])) ** 2 / sigma2);
      }
      yield { i, bits: sum / all / Math.LN2 };
    }
  }

  // ---- What the reader sees.
  const beta = linear(), bar = bars(beta);
  const pixels = (base64) => Float32Array.from(atob(base64), (c) => c.charCodeAt(0) / 127.5 - 1);
  function canvas(side, what) {
    const made = Object.assign(document.createElement("canvas"), { width: side, height: side });
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", what);
    return made;
  }
  const say = (box, words) => (box.querySelector(".draw-said").textContent = words);
  const set = (box, words) => (box.querySelector(".draw-said").innerHTML = words.replace(/([Lx])_(\w)/g, "<i>$1</i><sub>$2</sub>")); // only words of ours
  let loaded = null;
  async function network(box) {
    if (!loaded) say(box, `Loading the network, ${box.dataset.size} …`);
    await Draw.pause();
    return (loaded = await Draw.load());
  }
  const cannot = (box, error) => {
    console.info(error);
    say(box, `This browser could not run the network (${error.message}). The stored picture shows what it would have drawn.`);
    stored(box).hidden = false;
  };
  const stored = (box) => box.previousElementSibling;
  // A press starts a run, a second press stops it, and so does a change of a setting.
  function runs(box, words, work) {
    const button = box.querySelector("button[type=submit]"), form = box.querySelector("form");
    let run = 0;
    const stop = () => { run++; button.textContent = words; };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (button.textContent === "Stop") { stop(); say(box, "Stopped."); return; }
      const mine = ++run;
      button.textContent = "Stop";
      try { await work(() => run !== mine); } catch (error) { cannot(box, error); }
      if (run === mine) button.textContent = words;
    });
    form.addEventListener("input", () => { if (button.textContent === "Stop") stop(); });
    form.addEventListener("keydown", (event) => event.stopPropagation()); // the theme turns pages with the arrow keys
  }

  function startNoise(box) {
    const form = box.querySelector("form"), { source, seed, t, file } = form.elements, pad = box.querySelector(".play-pad"), size = 28;
    const given = JSON.parse(box.dataset.pictures).map(pixels), [x, eps, guess] = [".play-x", ".play-eps", ".play-guess"].map((c) => box.querySelector(c));
    const ask = box.querySelector("button[type=submit]");
    let own = null, drawing = new Float32Array(size * size).fill(-1), cursor = [14, 14], down = false;
    const picture = () => (source.value === "draw" ? drawing : source.value === "file" ? own : given[+source.value]);
    const side = (values) => (values.length > size * size ? 96 : size);
    const show = () => {
      const x0 = picture() ?? new Float32Array(size * size).fill(-1), n = side(x0), noise = Draw.normals(+seed.value)(x0.length), time = +t.value;
      for (const c of [pad, x, eps]) if (c.width !== n) c.width = c.height = n;
      const x_t = noised(x0, bar[time], noise);
      Draw.paint(pad, x0);
      Draw.paint(x, x_t);
      Draw.paint(eps, noise, 1 / 3);
      if (source.value === "draw" && document.activeElement === pad) mark();
      box.querySelector(".draw-t").textContent = time;
      t.setAttribute("aria-valuetext", `t = ${time}`);
      x.setAttribute("aria-label", `The picture with the noise of t = ${time}`);
      guess.hidden = true;
      ask.disabled = n !== size || time === 0;
      pad.classList.toggle("drawn-on", source.value === "draw");
      pad.tabIndex = source.value === "draw" ? 0 : -1;
      box.querySelector(".play-clear").hidden = source.value !== "draw";
      box.querySelector(".play-file").hidden = source.value !== "file";
      set(box, `x_t holds ${sqrt(bar[time]).toFixed(3)} of the picture and ${sqrt(1 - bar[time]).toFixed(3)} of the noise.`);
    };
    const mark = () => {
      const context = pad.getContext("2d");
      context.fillStyle = down ? "#d55e00" : "#56b4e9";
      context.fillRect(cursor[0], cursor[1], 1, 1);
    };
    // A round brush with a soft edge, from the last place to this one.
    function stroke(from, to) {
      const many = max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
      for (let s = 0; s <= many; s++) {
        const cx = from[0] + ((to[0] - from[0]) * s) / many, cy = from[1] + ((to[1] - from[1]) * s) / many;
        for (let j = max(0, Math.floor(cy - 2)); j <= min(size - 1, cy + 2); j++) for (let i = max(0, Math.floor(cx - 2)); i <= min(size - 1, cx + 2); i++) {
          const ink = min(1, max(0, 1.9 - Math.hypot(i - cx, j - cy))) * 2 - 1;
          drawing[j * size + i] = max(drawing[j * size + i], ink);
        }
      }
    }
    const place = (event) => { const r = pad.getBoundingClientRect(); return [((event.clientX - r.x) / r.width) * size - 0.5, ((event.clientY - r.y) / r.height) * size - 0.5]; };
    let last = null;
    pad.addEventListener("pointerdown", (event) => {
      if (source.value !== "draw") { source.value = "draw"; }
      event.preventDefault();
      pad.setPointerCapture?.(event.pointerId);
      last = place(event);
      stroke(last, last);
      show();
    });
    pad.addEventListener("pointermove", (event) => { if (last) { const now = place(event); stroke(last, now); last = now; show(); } });
    for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (last = null));
    pad.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way && event.key !== " ") return;
      event.preventDefault();
      const before = [...cursor];
      if (way) cursor = cursor.map((v, k) => min(size - 1, max(0, v + way[k])));
      else down = !down;
      if (down) stroke(before, cursor);
      show();
    });
    for (const kind of ["focus", "blur"]) pad.addEventListener(kind, show);
    box.querySelector(".play-clear").addEventListener("click", () => { drawing.fill(-1); show(); });
    file.addEventListener("change", async () => {
      if (!file.files.length) return;
      try {
        const bitmap = await createImageBitmap(file.files[0]), square = min(bitmap.width, bitmap.height);
        const small = canvas(96, ""), context = small.getContext("2d", { willReadFrequently: true });
        context.fillStyle = "#fff";
        context.fillRect(0, 0, 96, 96);
        context.imageSmoothingQuality = "high";
        context.drawImage(bitmap, (bitmap.width - square) / 2, (bitmap.height - square) / 2, square, square, 0, 0, 96, 96);
        const { data } = context.getImageData(0, 0, 96, 96);
        own = Float32Array.from({ length: 3 * 96 * 96 }, (_, k) => data[4 * (k % 9216) + Math.floor(k / 9216)] / 127.5 - 1);
        show();
      } catch (error) { say(box, `This file cannot be read as a picture (${error.message}); wanted PNG, JPEG, WebP, GIF or BMP.`); }
    });
    source.addEventListener("input", () => { if (source.value === "file" && !own) { own = null; } show(); });
    for (const control of [seed, t]) control.addEventListener("input", () => { if (form.checkValidity()) show(); });
    runs(box, "Ask the network", async (stopped) => {
      const { model } = await network(box), time = +t.value, x0 = picture(), noise = Draw.normals(+seed.value)(x0.length);
      const x_t = Float32Array.from(noised(x0, bar[time], noise)), answer = await model(10)(x_t, time);
      if (stopped()) return;
      Draw.paint(guess.querySelector("canvas"), seen(x_t, bar[time], answer));
      guess.hidden = false;
      const off = sqrt(answer.reduce((sum, v, k) => sum + (v - noise[k]) ** 2, 0) / noise.length);
      say(box, `The network's guess of the noise is off by ${off.toFixed(2)} a pixel (root of the mean square; the noise itself has 1). Below what it takes the picture to be, Eq. (15).`);
    });
    show();
  }

  function startSampling(box) {
    const { steps, seed, variance, label } = box.querySelector("form").elements, rows = box.querySelectorAll(".play-row"), size = 28;
    const show = (row, place, what, values, gain) => {
      const made = canvas(size, what);
      Draw.paint(made, values, gain);
      rows[row].children[place] ? rows[row].children[place].replaceWith(made) : rows[row].append(made);
    };
    const fresh = () => rows.forEach((row, r) => { for (let k = 0; k < 8; k++) show(r, k, "nothing yet", k || r ? new Float32Array(size * size) : Draw.normals(+seed.value)(size * size), 0.5); });
    runs(box, "Sample", async (stopped) => {
      const { model, about, size: n } = await network(box), total = +steps.value, chosen = Array.from({ length: 8 }, (_, k) => Math.round((k * total) / 7));
      fresh();
      const began = performance.now(), times = [], name = label.options[label.selectedIndex].text;
      let i = 0;
      const how = { steps: total, sampler: variance.value === "none" ? "ddim" : "ddpm", variance: variance.value, noise: Draw.normals(+seed.value) };
      for await (const { t, x, x0 } of Draw.sampleSteps(model(+label.value), about.beta, n, how)) {
        if (stopped()) return;
        chosen.forEach((at, k) => {
          if (at !== i) return;
          show(0, k, `x_t at t = ${t}`, x, t ? 0.5 : 1);
          show(1, k, `the guess at t = ${t}`, x0, 1);
          times[k] = t;
        });
        say(box, `Step ${i} of ${total} …`);
        i++;
        await Draw.pause();
      }
      set(box, `${name}, seed ${+seed.value}: above x_t, below the guess x_0, at t = ${times.join(", ")}; ${((performance.now() - began) / 1000).toFixed(1)} seconds.`);
    });
    fresh();
  }

  function chart(values, label, mark) {
    const w = 340, h = 170, l = 44, b = 26, low = -6, high = max(0, Math.ceil(max(...values.map((v) => Math.log10(max(v, 1e-6))))));
    const py = (v) => 8 + ((h - b - 8) * (high - Math.log10(max(v, 1e-6)))) / (high - low), wide = (w - l - 6) / values.length;
    const bars = values.map((v, k) => `<rect x="${(l + k * wide).toFixed(1)}" width="${max(wide - 0.6, 0.8).toFixed(1)}" y="${py(v).toFixed(1)}" height="${(h - b - py(v)).toFixed(1)}" fill="var(--book-${k === mark ? "noise" : "model"})"/>`).join("");
    const ticks = Array.from({ length: high - low + 1 }, (_, k) => low + k).filter((p) => p % 2 === 0).map((p) => `<text x="${l - 5}" y="${(py(10 ** p) + 4).toFixed(1)}" text-anchor="end">10<tspan dy="-4" font-size="9">${String(p).replace("-", "\u2212")}</tspan></text>`).join("");
    return `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${label}"><path d="M${l} 8V${h - b}H${w - 6}" fill="none" stroke="currentColor" stroke-width=".8"/>${bars}${ticks}
      <text x="${l}" y="${h - 8}">step 1</text><text x="${w - 6}" y="${h - 8}" text-anchor="end">${values.length - 1}, and L_T in grey</text></svg>`;
  }
  function curves(times) {
    const w = 340, h = 150, l = 34, b = 26, n = times.length - 1, px = (i) => l + ((w - l - 6) * i) / n, py = (v) => 8 + (h - b - 8) * (1 - v);
    const line = (f, colour) => `<path d="M${times.map((t, i) => `${px(i).toFixed(1)} ${py(f(bar[t])).toFixed(1)}`).join("L")}" fill="none" stroke="var(--book-${colour})" stroke-width="2"/>`;
    return `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="What is left of the picture falls and the noise rises over ${n} steps, the last at t = ${times[n]}"><path d="M${l} 8V${h - b}H${w - 6}" fill="none" stroke="currentColor" stroke-width=".8"/>${line(sqrt, "data")}${line((v) => sqrt(1 - v), "noise")}
      <text x="${l - 5}" y="14" text-anchor="end">1</text><text x="${l - 5}" y="${h - b}" text-anchor="end">0</text><text x="${l}" y="${h - 8}">0</text><text x="${w - 6}" y="${h - 8}" text-anchor="end">step ${n}</text></svg>`;
  }
  function startBound(box) {
    const form = box.querySelector("form"), { steps, shape, last, variance } = form.elements, [above, below] = box.querySelectorAll(".play-chart");
    const pictures = JSON.parse(box.dataset.pictures).map(pixels), labels = JSON.parse(box.dataset.labels);
    const times = () => bend(+steps.value, +shape.value, +last.value);
    const show = () => {
      form.querySelectorAll("output").forEach((out) => (out.textContent = form.elements[out.dataset.of].value));
      above.innerHTML = curves(times());
    };
    form.addEventListener("input", show);
    runs(box, "Compute the bits", async (stopped) => {
      const { model, about } = await network(box), visited = times(), n = visited.length - 1, bits = new Array(n + 1).fill(0);
      const how = { variance: variance.value, noise: Draw.normals(0) };
      for await (const { i, bits: value } of boundTerms(labels.map(model), pictures, bars(about.beta), visited, how)) {
        if (stopped()) return;
        bits[i - 1] = value;
        below.innerHTML = chart(bits, "The bits that each step costs", n);
        say(box, `Step ${i} …`);
        await Draw.pause();
      }
      const sum = (list) => list.reduce((a, v) => a + v, 0), [first, between, prior] = [bits[0], sum(bits.slice(1, n)), bits[n]];
      below.innerHTML = chart(bits, `Bars, the bits that each of ${n} steps costs: ${first.toPrecision(3)} for the pixels, ${between.toPrecision(3)} for the steps between, ${prior.toExponential(1)} for the prior`, n);
      set(box, `In all ${sum(bits).toPrecision(4)} bits per dimension: ${first.toPrecision(4)} for the pixels (L_0), ${between.toPrecision(4)} for the steps between, ${prior.toExponential(3)} for what is left at the end (L_T).`);
    });
    show();
  }

  const KINDS = { noise: startNoise, sampling: startSampling, bound: startBound };
  function look() {
    if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") return; // the stored pictures stay
    document.querySelectorAll(".play[data-play]").forEach((box) => {
      box.hidden = false;
      stored(box).hidden = true;
      KINDS[box.dataset.play](box);
    });
  }
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", look) : look();
  return { linear, bars, noised, seen, bend, logBelow, logPixel, boundTerms };
})();
window.Play = Play;
