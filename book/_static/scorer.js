/* The order of what the search finds: a chapter before the functions, unless a function's own name was typed; a row of the notation by its
   Korean term first. */
"use strict";
var Scorer = {
  score: ([page, title, , , score]) => {
    const asked = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase(), name = title.split(".").pop().toLowerCase();
    if (/[\uac00-\ud7a3]/.test(asked) && page === "book/notation") return score + 30;
    if (page === "book/reference" || page === "book/commands") return title.toLowerCase() === asked || (name === asked && title.split(".").length <= 3 && /[_.]/.test(asked)) ? score + 10 : score - 12;
    if (page === "book/equations" && !/eq|\(\d/.test(asked)) return score - 6;
    return /^book\/\d/.test(page) ? score + 4 : score;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0, title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
