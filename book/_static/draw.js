/* The sampler of the page "Draw one yourself": Algorithm 2 and DDIM, as in ddpm_core/sampling.py, with the network run by ONNX Runtime Web.
   words.js draws from words with it.
   A test runs what stands here in a browser beside ddpm_core. Numbers in parentheses are the paper's equations. */

const Draw = (() => {
  "use strict";

  // Standard normal numbers that follow from a seed: mulberry32, then Box and Muller. (JavaScript's own generator takes no seed.)
  function* uniform(seed) {
    let state = seed >>> 0;
    for (;;) {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), state | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      yield ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
    }
  }
  function normals(seed) {
    const u = uniform(seed), next = () => u.next().value;
    return (n) => {
      const out = new Float32Array(n + (n % 2));
      for (let i = 0; i < n; i += 2) {
        const radius = Math.sqrt(-2 * Math.log(1 - next())), angle = 2 * Math.PI * next();
        out[i] = radius * Math.cos(angle);
        out[i + 1] = radius * Math.sin(angle);
      }
      return out.subarray(0, n);
    };
  }

  // The times that `steps` steps visit, spread evenly from T to 1, and alpha_bar at them: respace of ddpm_core, its rounding included.
  function respace(beta, steps) {
    const T = beta.length, alphaBar = [1];
    beta.forEach((b, i) => alphaBar.push(alphaBar[i] * (1 - b)));
    const evenly = (i) => {
      const step = (1 - T) / (steps - 1 || 1), x = i < Math.floor(steps / 2) ? T + step * i : 1 - step * (steps - 1 - i), down = Math.floor(x);
      return x - down === 0.5 ? down + (down % 2) : Math.round(x);
    };
    const times = [0, ...Array.from({ length: steps }, (_, i) => (steps === 1 || i === 0 ? T : evenly(i))).reverse()];
    return { times, alphaBar: times.map((t) => alphaBar[t]) };
  }

  // Yields {t, x, x0}: x_t and x0_hat from t = T down, and at last t = 0, x_0 twice.
  //   model  async (x, t) -> eps      beta  beta_1..beta_T      noise  n -> n standard normal numbers, for x_T and every z
  async function* sampleSteps(model, beta, size, { steps, sampler, noise, variance = "beta" }) {
    const { times, alphaBar } = respace(beta, steps);
    let x = noise(size);
    for (let i = steps; i > 0; i--) {
      const now = alphaBar[i], before = alphaBar[i - 1], alpha = now / before;
      const eps = await model(x, times[i]);
      const x0 = x.map((v, k) => Math.min(1, Math.max(-1, (v - Math.sqrt(1 - now) * eps[k]) / Math.sqrt(now)))); // (15), clipped
      yield { t: times[i], x, x0 };
      if (sampler === "ddim") {
        const onward = Math.sqrt((1 - before) / (1 - now)); // with the clipped x0_hat belongs the eps_hat of (15) that fits it and x_t
        x = x.map((v, k) => Math.sqrt(before) * x0[k] + onward * (v - Math.sqrt(now) * x0[k]));
      } else {
        const ofX0 = (Math.sqrt(before) * (1 - alpha)) / (1 - now), ofX = (Math.sqrt(alpha) * (1 - before)) / (1 - now); // (7)
        const narrow = variance === "beta_tilde" ? (1 - before) / (1 - now) : 1;
        const z = i > 1 ? noise(size) : null, sigma = Math.sqrt(narrow * (1 - alpha)); // sigma_t^2 = beta_t, or beta_tilde_t; no noise in the last step
        x = x.map((v, k) => ofX0 * x0[k] + ofX * v + (z ? sigma * z[k] : 0));
      }
    }
    yield { t: 0, x, x0: x };
  }

  // ---- The networks: scripts, loaded by the first press and not before. Scripts, because a page from the reader's disk may not fetch.
  const here = document.currentScript ? document.currentScript.src : "";
  const script = (name) => new Promise((done, failed) => {
    const tag = document.createElement("script");
    tag.src = new URL(`draw/${name}`, here).href;
    tag.onload = done;
    tag.onerror = () => { tag.remove(); failed(new Error(`${name} could not be loaded`)); };
    document.head.append(tag);
  });
  async function unpack(base64) {
    const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    return new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }
  // The runtime, and a session for each network, in the order of the scripts that bring them.
  async function sessions(...names) {
    await Promise.all(["ort.wasm-core.min.js", "runtime.js", ...names.map((name) => `${name}.js`)].map(script));
    const url = URL.createObjectURL(new Blob([await unpack(Draw.files.runtime)], { type: "application/wasm" }));
    ort.env.wasm.numThreads = 1; // more would want headers that a plain host does not send
    ort.env.wasm.wasmPaths = { "ort-wasm-simd.wasm": url };
    const made = [];
    for (const name of names) made.push(await ort.InferenceSession.create(await unpack(Draw.files[name]), { executionProviders: ["wasm"] }));
    URL.revokeObjectURL(url);
    Draw.files = { about: Draw.files.about };
    return made;
  }
  const once = (make) => {
    let made = null;
    return () => {
      if (!made) {
        made = make();
        made.catch(() => (made = null)); // a second press tries again
      }
      return made;
    };
  };
  const tensor = (type, values, shape) => new ort.Tensor(type, values, shape);

  const load = once(async () => {
    const [session] = await sessions("network"), { about } = Draw.files;
    const shape = [1, about.channels, about.image_size, about.image_size];
    const model = (label) => async (x, t) => (await session.run({
      x: tensor("float32", x, shape), t: tensor("float32", Float32Array.of(t), [1]), y: tensor("int32", Int32Array.of(label), [1]),
    })).eps.data;
    return { model, about, size: shape.reduce((a, b) => a * b) };
  });

  // ---- The figure.
  function paint(canvas, values, gain = 1) {
    const context = canvas.getContext("2d"), picture = context.createImageData(canvas.width, canvas.height);
    const n = canvas.width * canvas.height, next = values.length > n ? n : 0; // red, green, blue one after the other, or grey
    for (let i = 0; i < n; i++) {
      const level = (k) => Math.round((Math.min(1, Math.max(-1, values[i + k * next] * gain)) + 1) * 127.5);
      picture.data.set([level(0), level(1), level(2), 255], 4 * i);
    }
    context.putImageData(picture, 0, 0);
  }
  const pause = () => new Promise((done) => setTimeout(done)); // lets the page paint, and the reader scroll

  // box: load, as above; wrong(controls), what hinders a drawing, or ""; asked(controls): name, what, steps, sampler, and model(loaded)
  function start(root, box) {
    const form = root.querySelector("form"), find = (name) => root.querySelector(name);
    const [left, right, time, shown, said, shelf, button] = [".draw-x", ".draw-x0", ".draw-time", ".draw-t", ".draw-said", ".draw-shelf", "button"].map((n) => form.querySelector(n));
    const controls = form.elements, named = [...controls].filter((control) => control.name), { seed } = controls;
    let frames = [], run = 0, drawn = "", loaded = null;
    const size = left.width * left.height * box.channels;
    const settings = () => named.map((control) => control.value).join();

    const show = (frame) => {
      paint(left, frame.x, frame.t ? 0.5 : 1); // x_t reaches beyond -1 and 1
      paint(right, frame.x0);
      shown.textContent = frame.t;
      time.setAttribute("aria-valuetext", `t = ${frame.t}`);
    };
    const fresh = () => {
      run++; // a run that is on its way stops
      frames = [];
      time.disabled = true;
      show({ t: "T", x: normals(+seed.value)(size), x0: new Float32Array(size) });
      left.setAttribute("aria-label", `What the sampler holds: the static of seed ${+seed.value}`);
      right.setAttribute("aria-label", "The network's guess of the end: nothing yet");
    };
    const keep = (what, x) => {
      const small = document.createElement("canvas");
      small.width = left.width;
      small.height = left.height;
      small.setAttribute("role", "img");
      small.setAttribute("aria-label", what);
      small.title = what;
      paint(small, x);
      shelf.prepend(small);
      while (shelf.children.length > 12) shelf.lastChild.remove();
    };

    async function draw() {
      if (drawn === settings()) seed.value = (+seed.value + 1) % (+seed.max + 1); // pressed again, another picture
      fresh();
      const mine = run, { name, what, steps, sampler, model } = box.asked(controls);
      button.textContent = "Stop";
      try {
        if (!loaded) said.textContent = `Loading the network, ${said.dataset.size} …`;
        await pause();
        loaded = await box.load();
        const began = performance.now(), eps = await model(loaded);
        said.textContent = `Drawing in ${steps} steps …`;
        for await (const frame of sampleSteps(eps, loaded.about.beta, size, { steps, sampler, noise: normals(+seed.value) })) {
          if (run !== mine) return;
          frames.push(frame);
          show(frame);
          await pause();
        }
        const seconds = (performance.now() - began) / 1000;
        said.textContent = `Drawn here, by this browser: ${what}; ${seconds.toFixed(1)} seconds. Drag t to see it form again.`;
        left.setAttribute("aria-label", `Drawn: ${what}`);
        right.setAttribute("aria-label", `The network's last guess of it: ${name}`);
        Object.assign(time, { max: frames.length - 1, value: frames.length - 1, disabled: false });
        keep(what, frames[frames.length - 1].x);
        drawn = settings();
      } catch (error) {
        console.info(error);
        said.textContent = `This browser could not run the network (${error.message}). The stored run below shows what it would have drawn.`;
        find(".draw-stored").open = true;
      } finally {
        if (run === mine) button.textContent = "Draw";
      }
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (button.textContent === "Stop") {
        fresh();
        button.textContent = "Draw";
        said.textContent = "Stopped.";
      } else if (form.reportValidity()) {
        const wrong = box.wrong(controls);
        wrong ? (said.textContent = wrong) : draw();
      }
    });
    form.addEventListener("keydown", (event) => event.stopPropagation()); // the theme turns pages with the arrow keys
    time.addEventListener("input", () => show(frames[+time.value]));
    for (const control of named) control.addEventListener("input", () => {
      if (button.textContent === "Stop") button.textContent = "Draw";
      if (form.checkValidity()) fresh();
    });
    fresh();
  }

  const garments = {
    channels: 1,
    load,
    wrong: () => "",
    asked: ({ label, seed, steps, sampler }) => {
      const name = label.options[label.selectedIndex].text, by = sampler.value === "ddim" ? "DDIM" : "Algorithm 2";
      const what = `${name}, seed ${+seed.value}, ${steps.value} steps of ${by}`;
      return { name, what, steps: +steps.value, sampler: sampler.value, model: ({ model }) => model(+label.value) };
    },
  };
  function ready(id, box) {
    const look = () => {
      const root = document.getElementById(id);
      if (root && !root.querySelector("form").hidden) start(root, box); // the page's own line below the figure has looked whether it can
    };
    document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", look) : look();
  }
  ready("draw", garments);
  return { uniform, normals, respace, sampleSteps, sessions, once, tensor, paint, pause, ready, load, files: {} };
})();
window.Draw = Draw;
