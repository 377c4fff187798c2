"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const key = `s2v-study-${data.study}-${data.rater}`;
  const names = data.questions.map((q) => q[0]);
  const buttons = [...document.querySelectorAll(".questions button")];
  const videos = [...document.querySelectorAll("video")];
  let given = {}; // item -> {answers, ms, place}
  let at = 0;
  let since = performance.now();
  let unsaved = false;
  let storing = true; // once the browser refused, what is in memory is the newest

  const warn = () => {
    by("warning").textContent =
      "This browser keeps nothing for this page: save the answers before you close it.";
  };
  // The page may be open twice: what the other one kept is taken over before anything is written.
  const restore = () => {
    if (!storing) return;
    try {
      const kept = JSON.parse(localStorage.getItem(key) || "{}");
      for (const [id, one] of Object.entries(kept || {})) {
        if (one && typeof one.answers === "object" && one.answers) given[id] = one;
      }
    } catch {
      warn();
    }
  };
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify(given));
    } catch {
      storing = false;
      warn();
    }
  };

  const whole = (id) => id in given && names.every((q) => q in given[id].answers);
  const answered = () => data.items.filter((item) => whole(item[0])).length;
  const openQuestion = (id) => names.find((q) => !(given[id] && q in given[id].answers));

  const mark = () => {
    const id = data.items[at][0];
    const mine = given[id] ? given[id].answers : {};
    for (const b of buttons) {
      b.setAttribute("aria-pressed", String(mine[b.dataset.question] === b.dataset.choice));
    }
    const open = openQuestion(id);
    for (const q of names) by(`q-${q}`).classList.toggle("open", q === open);
    const count = answered();
    by("bar").max = data.items.length;
    by("bar").value = count;
    by("count").textContent = `${count} of ${data.items.length} answered`;
    by("back").disabled = at === 0;
    by("next").disabled = !whole(id) || at === data.items.length - 1;
    if (count === data.items.length) {
      by("warning").textContent = "All answered. Thank you: press \"Save answers\" and send the file.";
    }
  };
  const show = () => {
    const [, media, references, prompt] = data.items[at];
    by("where").textContent = `Item ${at + 1} of ${data.items.length}`;
    by("prompt").textContent = prompt;
    by("references").replaceChildren(...references.map((name, n) => {
      const image = document.createElement("img");
      image.src = `media/${name}`;
      image.alt = `reference ${n + 1}`;
      return image;
    }));
    videos.forEach((video, n) => {
      video.src = `media/${media[n]}`;
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
    });
    since = performance.now();
    mark();
  };
  const move = (step) => {
    const to = at + step;
    if (to < 0 || to >= data.items.length || (step > 0 && !whole(data.items[at][0]))) return;
    at = to;
    show();
  };
  const give = (question, choice) => {
    const id = data.items[at][0];
    restore();
    given[id] ||= { answers: {}, ms: 0, place: answered() };
    given[id].answers[question] = choice;
    const now = performance.now();
    given[id].ms = Math.min(86400000, given[id].ms + Math.round(now - since));
    since = now;
    unsaved = true;
    keep();
    mark();
  };
  const play = () => {
    const stopped = videos.every((video) => video.paused);
    for (const video of videos) {
      if (stopped) {
        video.currentTime = 0;
        video.play().catch(() => {});
      } else video.pause();
    }
  };
  const save = () => {
    restore();
    mark();
    const file = {
      schema: data.schema,
      study: data.study,
      rater: data.rater,
      given: data.items.filter((item) => item[0] in given).map((item) => ({
        item: item[0],
        answers: given[item[0]].answers,
        ms: given[item[0]].ms,
        place: given[item[0]].place,
      })),
    };
    const link = document.createElement("a");
    const text = JSON.stringify(file, null, 1) + "\n";
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `answers-${data.study}-${data.rater}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
  };

  buttons.forEach((b) => b.addEventListener("click", () => {
    give(b.dataset.question, b.dataset.choice);
  }));
  by("back").addEventListener("click", () => move(-1));
  by("next").addEventListener("click", () => move(1));
  by("play").addEventListener("click", play);
  by("save").addEventListener("click", save);
  addEventListener("storage", (event) => {
    if (event.key !== key) return;
    restore();
    mark();
  });
  addEventListener("beforeunload", (event) => {
    if (unsaved && by("warning").textContent) event.preventDefault();
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && /^(BUTTON|VIDEO)$/.test(event.target.tagName)) return;
    const n = Number(event.key) - 1;
    const id = data.items[at][0];
    if (data.choices[n]) {
      const question = openQuestion(id);
      if (question) give(question, data.choices[n][0]);
    } else if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else if (event.key === " ") play();
    else return;
    event.preventDefault();
  });

  restore();
  const open = data.items.findIndex((item) => !whole(item[0]));
  at = open < 0 ? data.items.length - 1 : open;
  show();
})();
