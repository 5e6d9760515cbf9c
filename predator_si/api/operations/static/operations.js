// Brings the page up to date while somebody looks at it. Everything works without this script; reloading does the same.
"use strict";
(() => {
  const SECONDS = 15;
  const announce = document.getElementById("announce");
  let paused = false;

  function inUse(section) {
    if (section.contains(document.activeElement)) return true;
    return [...section.querySelectorAll("textarea, input")].some((field) => field.value !== field.defaultValue);
  }

  function words(section) {
    const copy = section.cloneNode(true);
    copy.querySelectorAll("[data-quiet]").forEach((one) => one.remove());
    return copy.textContent;
  }

  async function refresh() {
    if (paused || document.hidden || !document.querySelector("[data-live]")) return;
    const address = new URL(location.href);
    address.searchParams.delete("done");
    let fresh;
    try {
      const answer = await fetch(address, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) return;
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      return; // asked again in a moment; the page says how old it is
    }
    const changed = [];
    for (const section of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(section.id);
      if (!now || inUse(section)) continue;
      now.querySelectorAll("details").forEach((one, place) => { one.open = section.querySelectorAll("details")[place]?.open ?? false; });
      if (now.innerHTML === section.innerHTML) continue;
      if (words(now) !== words(section)) changed.push(now.querySelector("h2")?.textContent ?? "");
      section.replaceWith(document.adoptNode(now));
    }
    const footer = fresh.querySelector("footer p");
    if (footer) document.querySelector("footer p")?.replaceWith(document.adoptNode(footer));
    if (changed.length) announce.textContent = `${document.body.dataset.updated}: ${changed.join(", ")}`;
  }

  if (document.querySelector("[data-live]")) {
    const button = document.createElement("button");
    button.className = "plain";
    button.id = "pause";
    button.textContent = document.body.dataset.pause;
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? document.body.dataset.resume : document.body.dataset.pause;
    });
    document.querySelector("footer").append(button);
    setInterval(refresh, SECONDS * 1000);
    document.addEventListener("visibilitychange", refresh);
  }
})();
