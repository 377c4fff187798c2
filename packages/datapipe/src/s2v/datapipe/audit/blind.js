"use strict";
const cards = [...document.querySelectorAll("[data-pair]")];
const answer = (card, column) =>
  card.querySelector(`[data-column="${column}"] input:checked`)?.value ?? "";
const rows = () =>
  cards.map((card) => [
    card.dataset.pair, answer(card, "same_subject"), answer(card, "near_copy"), "",
  ]);
const count = () => {
  const done = rows().filter((row) => row[1] || row[2]).length;
  document.getElementById("count").textContent = `${done} of ${cards.length} labelled`;
};
document.addEventListener("change", count);
document.getElementById("save").addEventListener("click", () => {
  const lines = [["pair_id", "same_subject", "near_copy", "note"], ...rows()];
  const text = lines.map((row) => row.join(",")).join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
count();
