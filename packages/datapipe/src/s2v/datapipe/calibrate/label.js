"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const buttons = [...document.querySelectorAll(".choices button")];
  let labels = {}; // number of the pair -> [label, when]
  let done = []; // [number, what it was before], for undo
  let at = 0;
  let unsaved = false; // given since the last CSV, for the question on leaving

  const stored = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(data.key) || "{}");
      labels = kept.labels || {};
      by("who").value = kept.who || "";
    } catch {
      warn();
    }
  };
  const store = () => {
    try {
      localStorage.setItem(data.key, JSON.stringify({ labels, who: by("who").value }));
    } catch {
      warn();
    }
  };
  const warn = () => {
    by("warning").textContent =
      "This browser keeps nothing for this page: save the CSV before you close it.";
  };

  const firstOpen = (from) => {
    for (let step = 0; step < data.pairs.length; step += 1) {
      const n = (from + step) % data.pairs.length;
      if (!(n in labels)) return n;
    }
    return -1;
  };

  const show = () => {
    const [left, right] = data.pairs[at].map((n) => data.subjects[n]);
    by("left-crop").src = left[1];
    by("left-frame").src = left[2];
    by("right-crop").src = right[1];
    by("right-frame").src = right[2];
    const given = labels[at] ? labels[at][0] : null;
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.label === given));
    const count = Object.keys(labels).length;
    by("bar").max = data.pairs.length;
    by("bar").value = count;
    by("count").textContent = `${count} of ${data.pairs.length} labelled`;
    by("where").textContent = `Pair ${at + 1}` + (given ? `: ${given}` : "");
    by("undo").disabled = done.length === 0;
  };

  const give = (label) => {
    done.push([at, labels[at]]);
    labels[at] = [label, new Date().toISOString()];
    unsaved = true;
    store();
    const next = firstOpen(at + 1);
    if (next >= 0) at = next;
    show();
  };
  const undo = () => {
    if (!done.length) return;
    const [n, before] = done.pop();
    if (before) labels[n] = before;
    else delete labels[n];
    at = n;
    store();
    show();
  };
  const forget = () => {
    if (!confirm("Take back all labels of this page?")) return;
    labels = {};
    done = [];
    at = 0;
    unsaved = false;
    by("who").value = "";
    store();
    show();
  };
  const move = (step) => {
    at = (at + step + data.pairs.length) % data.pairs.length;
    show();
  };
  const next = () => {
    const n = firstOpen(at + 1);
    if (n >= 0) at = n;
    show();
  };

  // A cell that a spreadsheet would take for a formula gets a quote before it; commas are quoted.
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (text) => quoted(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const csv = () => {
    const who = by("who").value.trim();
    const lines = ["target,reference,label,who,when"];
    data.pairs.forEach(([a, b], n) => {
      if (!(n in labels)) return;
      const [one, other] = [data.subjects[a][0], data.subjects[b][0]].map(quoted);
      lines.push([one, other, labels[n][0], cell(who), labels[n][1]].join(","));
    });
    return lines.join("\n") + "\n";
  };
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "labels.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
  };

  buttons.forEach((b) => b.addEventListener("click", () => give(b.dataset.label)));
  by("undo").addEventListener("click", undo);
  by("back").addEventListener("click", () => move(-1));
  by("on").addEventListener("click", () => move(1));
  by("next").addEventListener("click", next);
  by("save").addEventListener("click", save);
  by("forget").addEventListener("click", forget);
  by("who").addEventListener("input", store);
  addEventListener("beforeunload", (event) => {
    if (unsaved && by("warning").textContent) event.preventDefault();
  });
  addEventListener("keydown", (event) => {
    if (event.target === by("who") || event.ctrlKey || event.metaKey || event.altKey) return;
    const n = "1234".indexOf(event.key);
    if (event.key.length === 1 && n >= 0) give(data.labels[n]);
    else if (event.key === "u" || event.key === "Backspace") undo();
    else if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else if (event.key === "n") next();
    else return;
    event.preventDefault();
  });

  stored();
  const open = firstOpen(0);
  at = open < 0 ? 0 : open;
  show();
})();
