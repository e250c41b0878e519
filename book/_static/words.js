/* The page "Pictures from words": the tokenizer of ddpm_core/after/text.py, guidance, and the form. The sampler and the rest are draw.js's.
   A test runs what stands here in a browser beside ddpm_core. */

const Words = (() => {
  "use strict";
  const START = 1, END = 2, FIRST = 3; // the number of byte 0; the merges follow the 256 bytes

  // Byte-pair encoding: caption -> numbers, from START to END.
  function tokenizer(merges) {
    const rank = new Map(merges.map(([a, b], n) => [`${a},${b}`, n])), bytes = new TextEncoder();
    const pieces = (word) => {
      const found = [...bytes.encode(word)].map((byte) => FIRST + byte);
      for (;;) {
        let best = Infinity;
        for (let i = 1; i < found.length; i++) best = Math.min(best, rank.get(`${found[i - 1]},${found[i]}`) ?? Infinity);
        if (best === Infinity) return found;
        const [a, b] = merges[best], joined = [];
        for (const piece of found) {
          if (piece === b && joined.at(-1) === a) joined[joined.length - 1] = FIRST + 256 + best;
          else joined.push(piece);
        }
        found.splice(0, found.length, ...joined);
      }
    };
    const words = (caption) => ` ${caption.toLowerCase().trim()}`.match(/\s*[\p{L}\p{N}_]+|\s*[^\p{L}\p{N}_\s]/gu) ?? [];
    return (caption) => [START, ...words(caption).flatMap(pieces), END];
  }

  const caption = (artist, thing, ground) => `${artist} ${thing.trim()}`.trim() + (ground && ` on a ${ground} ground`);
  const spelled = (text) => text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];

  // Letters to change, add or leave out from one word to the other.
  function distance(a, b) {
    let row = Array.from({ length: b.length + 1 }, (_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1])));
      row = next;
    }
    return row[b.length];
  }
  const alike = (word, known) =>
    [...known].map((other) => [other.startsWith(word) ? 0.5 : distance(word, other), other])
      .filter(([far]) => far <= Math.max(1, word.length / 2.5)).sort(([a, x], [b, y]) => a - b || (x < y ? -1 : 1)).slice(0, 3).map(([, other]) => other);

  // What hinders: words that no caption of the training had, or more than fit. "" for nothing.
  function wrong(text, known, tokens, length) {
    if (!spelled(text).length) return "Nothing to draw: type a thing, such as lemon.";
    const unknown = spelled(text).filter((word) => !known.has(word));
    if (unknown.length) {
      const like = alike(unknown[0], known);
      return `The network has never read “${unknown[0]}”. ${like.length ? `Alike are: ${like.join(", ")}.` : "The field offers the things that it knows."}`;
    }
    return tokens.length > length ? `These are ${tokens.length - 2} pieces of words, and at most ${length - 2} fit: take words away.` : "";
  }

  // Guidance: eps_none + s (eps_words - eps_none). Asked for s = 1 the second alone, which is the same.
  const guided = (ask, told, none, s) => async (x, t) => {
    const words = await ask(x, t, told);
    if (s === 1) return words;
    const nothing = await ask(x, t, none);
    return words.map((v, k) => nothing[k] + s * (v - nothing[k]));
  };

  const load = Draw.once(async () => {
    const [text, decoder] = await Draw.sessions("text", "decoder"), { about } = Draw.files, { tensor } = Draw;
    const shape = [1, about.channels, about.image_size, about.image_size];
    const read = async (tokens) => {
      const found = await text.run({ tokens: tensor("int32", Int32Array.from(tokens), [1, tokens.length]) });
      return [{ context: found.context, pooled: found.pooled }, { context: found.no_context, pooled: found.no_pooled }];
    };
    const ask = async (x, t, told) => (await decoder.run({ x: tensor("float32", x, shape), t: tensor("float32", Float32Array.of(t), [1]), ...told })).eps.data;
    const model = async (tokens, s) => guided(ask, ...(await read(tokens)), s);
    return { read, ask, model, about };
  });

  const root = document.getElementById("words");
  if (root) {
    const data = JSON.parse(root.querySelector(".words-known").textContent), tokens = tokenizer(data.merges), known = new Set(data.words.split(" "));
    const whole = ({ artist, thing, ground }) => caption(artist.value, thing.value, ground.value);
    Draw.ready("words", {
      channels: 3,
      load,
      wrong: (controls) => {
        const said = wrong(controls.thing.value, known, tokens(whole(controls)), data.length);
        controls.thing.toggleAttribute("aria-invalid", !!said);
        if (said) controls.thing.focus();
        return said;
      },
      asked: (controls) => {
        const name = whole(controls), { seed, scale, steps } = controls;
        const what = `${name}, seed ${+seed.value}, s = ${scale.value}, ${steps.value} steps`;
        return { name, what, steps: +steps.value, sampler: "ddim", model: ({ model }) => model(tokens(name), +scale.value) };
      },
    });
  }
  return { tokenizer, caption, wrong, guided, load };
})();
window.Words = Words;
