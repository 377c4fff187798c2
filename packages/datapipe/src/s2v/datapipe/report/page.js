"use strict";
// Filter, outlines, and clips that play while they are in sight. Data is only ever compared and
// counted here, never turned into markup.
(() => {
  const form = document.getElementById("filter");
  const cards = [...document.querySelectorAll("#triplets > .sample")];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const MOST_LOADED = 24; // browsers limit how many players a page may have

  if (form) {
    const selects = [...form.querySelectorAll("select")];
    const count = document.getElementById("count");
    const none = document.getElementById("none");
    const apply = () => {
      let shown = 0;
      for (const card of cards) {
        card.hidden = selects.some((s) => s.value && card.dataset[s.name] !== s.value);
        shown += card.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${cards.length} shown`;
      none.hidden = shown > 0;
    };
    // The state is in the address, so that a view can be passed on.
    const save = () => {
      const chosen = new URLSearchParams();
      for (const s of selects) if (s.value) chosen.set(s.name, s.value);
      history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname);
    };
    const restore = () => {
      const given = new URLSearchParams(location.hash.slice(1));
      for (const s of selects) {
        const value = given.get(s.name);
        if ([...s.options].some((o) => o.value === value)) s.value = value;
      }
    };
    const masks = document.getElementById("masks");
    const outlines = () => document.body.classList.toggle("masks", masks.checked);
    form.addEventListener("change", () => { apply(); save(); outlines(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { apply(); save(); outlines(); }));
    addEventListener("hashchange", () => { restore(); apply(); });
    form.hidden = false;
    restore();
    apply();
    outlines();
  }

  const button = document.getElementById("motion");
  const loaded = new Set();
  const inSight = new Set();
  let paused = still.matches;

  const start = (video) => {
    if (!video.src) video.src = video.dataset.src;
    loaded.delete(video);
    loaded.add(video);
    for (const old of loaded) {
      if (loaded.size <= MOST_LOADED) break;
      if (!inSight.has(old)) unload(old);
    }
    video.play().catch(() => {}); // a browser may refuse; the controls are there
  };
  const unload = (video) => {
    video.dataset.src = video.src;
    video.removeAttribute("src");
    video.load();
    loaded.delete(video);
  };
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) inSight.add(target); else inSight.delete(target);
      if (isIntersecting && !target.src && target.dataset.src) target.src = target.dataset.src;
      if (isIntersecting && !paused) start(target); else target.pause();
    }
  }, { threshold: 0.5 });
  for (const video of document.querySelectorAll("video")) watch.observe(video);

  const say = () => {
    if (!button) return;
    button.textContent = paused ? "Play clips" : "Pause clips";
    button.setAttribute("aria-pressed", String(paused));
  };
  const pause = (wanted) => {
    paused = wanted;
    for (const video of inSight) if (paused) video.pause(); else start(video);
    say();
  };
  if (button) button.addEventListener("click", () => pause(!paused));
  still.addEventListener("change", () => pause(still.matches));
  say();
})();
