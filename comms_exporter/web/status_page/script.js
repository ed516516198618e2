"use strict";
(() => {
  const pause = document.getElementById("pause");
  const trouble = document.getElementById("trouble");
  let paused = false;
  async function refresh() {
    // A refresh would discard a selection that the reader is about to copy.
    if (paused || document.hidden || getSelection().type === "Range") return;
    try {
      const response = await fetch(location.origin + location.pathname + location.search, { cache: "no-store" });
      if (!response.ok) throw new Error(response.statusText);
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      if (!fresh.body.dataset.refresh) throw new Error("not a page of the exporter");
      const [x, y, focused] = [scrollX, scrollY, document.activeElement];
      for (const part of document.querySelectorAll("[data-live]")) {
        part.replaceChildren(...fresh.getElementById(part.id).childNodes);
      }
      if (!focused.isConnected) document.getElementById(focused.id)?.focus({ preventScroll: true });
      scrollTo(x, y);
      document.title = fresh.title;
      trouble.textContent = "";
    } catch {
      trouble.textContent = "Update failed: the exporter does not respond.";
    }
  }
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", paused);
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, document.body.dataset.refresh * 1000);
})();
