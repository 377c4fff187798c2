"use strict";
const cards = [...document.querySelectorAll("[data-pair]")];
const columns = ["same_subject", "near_copy"];
const boxes = (card, column) => [...card.querySelectorAll(`[data-column="${column}"] input`)];
const answer = (card, column) => boxes(card, column).find((box) => box.checked)?.value ?? "";
const rows = () =>
  cards.map((card) => [card.dataset.pair, ...columns.map((c) => answer(card, c)), ""]);
// Answers are kept by pair, so that a page drawn anew, with more pairs, still has them.
const place = (card, column) => `s2v-audit ${card.dataset.pair} ${column}`;
let kept = true;
let unsaved = false;
let restored = 0;

const restore = () => {
  for (const card of cards)
    for (const column of columns) {
      const before = localStorage.getItem(place(card, column));
      for (const box of boxes(card, column)) box.checked = box.value === before;
      if (before) restored += 1;
    }
};
const count = () => {
  const done = rows().filter((row) => row[1] || row[2]).length;
  const before = restored ? `; ${restored} answers are from before` : "";
  const where = kept ? before : "; this browser keeps nothing, save before you close the page";
  document.getElementById("count").textContent =
    `${done} of ${cards.length} labelled${where}`;
};
const guarded = (work) => {
  try {
    work();
  } catch {
    kept = false;
  }
};

document.addEventListener("change", (event) => {
  const card = event.target.closest("[data-pair]");
  const column = event.target.closest("[data-column]")?.dataset.column;
  if (card && column) {
    guarded(() => localStorage.setItem(place(card, column), event.target.value));
    unsaved = true;
  }
  count();
});
document.getElementById("clear").addEventListener("click", () => {
  if (!confirm("Take back all answers on this page?")) return;
  guarded(() => {
    for (const card of cards)
      for (const column of columns) localStorage.removeItem(place(card, column));
  });
  for (const box of document.querySelectorAll("input:checked")) box.checked = false;
  restored = 0;
  count();
});
document.getElementById("save").addEventListener("click", () => {
  const lines = [["pair_id", ...columns, "note"], ...rows()];
  const text = lines.map((row) => row.join(",")).join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  unsaved = false;
});
addEventListener("beforeunload", (event) => {
  if (unsaved && !kept) event.preventDefault();
});
guarded(restore);
count();
