// Keys, the clock, drafts, and what happens while the server is away. The page works as plain forms without this.
"use strict";
(() => {
  const IDLE_MS = 180000; // no key, scroll or touch for so long: the clock rests
  const RETRY_MS = 3000;
  const $ = (query, root = document) => root.querySelector(query);
  const form = () => $("#verdict");
  document.documentElement.classList.add("script");

  // --- the clock: seconds in which the page is seen and somebody is there
  let counted = 0, since = null, lastSign = performance.now();
  const moment = () => Math.min(performance.now(), lastSign + IDLE_MS);
  const seconds = () => counted + (since === null ? 0 : Math.max(0, moment() - since) / 1000);
  const rest = () => { counted = seconds(); since = null; };
  const run = () => { if (since === null && !document.hidden && form()) since = performance.now(); };
  const sign = () => {
    if (performance.now() > lastSign + IDLE_MS) rest();
    lastSign = performance.now();
    run();
  };
  document.addEventListener("visibilitychange", () => { document.hidden ? (rest(), keep()) : sign(); });
  for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"])
    addEventListener(kind, sign, { passive: true });
  addEventListener("scroll", sign, { passive: true, capture: true });
  addEventListener("pagehide", () => { rest(); keep(); });
  setInterval(() => {
    const clock = $("#clock"), now = Math.floor(seconds());
    if (clock) clock.textContent = Math.floor(now / 60) + ":" + String(now % 60).padStart(2, "0");
  }, 500);

  // --- a draft in this tab: a reload, or a server that is away, loses nothing
  const name = (f) => "draft " + f.dataset.assignment + " " + f.dataset.revision;
  const keep = () => {
    const f = form();
    if (!f) return;
    const d = { choice: f.elements.choice.value, confidence: f.elements.confidence.value,
      reason: f.elements.reason.value, write: f.elements.write.value, seconds: seconds() };
    try { sessionStorage.setItem(name(f), JSON.stringify(d)); } catch { /* a full or forbidden store: no draft */ }
  };
  const restore = (f) => {
    let draft = null;
    try { draft = JSON.parse(sessionStorage.getItem(name(f)) || "null"); } catch { /* none */ }
    counted = Number(f.dataset.seconds) || 0;
    if (!draft) return;
    if (draft.choice) f.elements.choice.value = draft.choice;
    if (draft.confidence) f.elements.confidence.value = draft.confidence;
    f.elements.reason.value = draft.reason || f.elements.reason.value;
    if (draft.write) f.elements.write.value = draft.write; // what was sent before the reload is known by it
    counted = Math.max(counted, Number(draft.seconds) || 0);
  };
  document.addEventListener("input", (event) => { if (event.target.form === form()) keep(); });

  // --- messages
  const say = (text) => { const box = $("#said"); if (box) box.textContent = text; };
  const warn = (text) => {
    const box = $("#message");
    box.textContent = text;
    box.hidden = !text;
  };

  // --- a new piece of page
  const begin = (root) => {
    const f = form();
    since = null; counted = 0; lastSign = performance.now();
    if (f) { restore(f); run(); fit(f.elements.reason); }
    for (const details of document.querySelectorAll("details[data-remember]")) {
      const known = localStorage.getItem("open " + details.dataset.remember);
      if (known !== null) details.open = known === "yes";
      else if (matchMedia("(max-width: 52rem)").matches) details.open = false;
    }
    const talk = $(".conversation"); // the last message is the one that is answered
    if (talk) talk.scrollTop = talk.scrollHeight;
    shown();
    const target = $("[data-focus]", root);
    if (target) target.focus({ preventScroll: true });
    if (target && target.dataset.said) say(target.dataset.said);
  };
  const fit = (area) => { area.style.height = "auto"; area.style.height = Math.min(area.scrollHeight + 2, 160) + "px"; };
  document.addEventListener("input", (event) => { if (event.target.matches(".reason textarea")) fit(event.target); });
  document.addEventListener("toggle", (event) => {
    const key = event.target.dataset && event.target.dataset.remember;
    if (key) localStorage.setItem("open " + key, event.target.open ? "yes" : "no");
  }, true);

  // --- differences and formatting, on or off
  const shown = () => {
    for (const what of ["marks", "formatted"]) {
      const on = localStorage.getItem("show " + what) !== "no";
      document.documentElement.classList.toggle("no-" + what, !on);
      for (const button of document.querySelectorAll(`[data-toggle="${what}"]`)) button.setAttribute("aria-pressed", on);
    }
  };
  document.addEventListener("click", (event) => {
    const toggle = event.target.closest("[data-toggle]");
    if (toggle) {
      const key = "show " + toggle.dataset.toggle;
      localStorage.setItem(key, localStorage.getItem(key) === "no" ? "yes" : "no");
      shown();
    }
    const opens = event.target.closest("[data-open]");
    if (opens) document.getElementById(opens.dataset.open).showModal();
  });

  // --- keys
  const typing = (target) => target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  document.addEventListener("keydown", (event) => {
    const target = event.target, f = form();
    if (event.isComposing || event.altKey || event.metaKey) return;
    if (event.ctrlKey) {
      if (event.key === "Enter" && f && f.contains(target)) { event.preventDefault(); f.requestSubmit(); }
      return;
    }
    if (event.key === "Escape" && typing(target)) {
      const cancel = target.form && $("[data-cancel]", target.form);
      cancel ? cancel.click() : target.blur();
      return;
    }
    if ($("dialog[open]") || typing(target)) return;
    if (event.key === "Enter") {
      if (target.matches("a, button, summary") || !f) return;
      event.preventDefault();
      f.requestSubmit();
      return;
    }
    const single = localStorage.getItem("single keys") !== "no";
    if (event.key === "?" && $("#help")) { $("#help").showModal(); return; }
    if (!single || event.repeat || event.key.length !== 1) return;
    const goal = $(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!goal) return;
    event.preventDefault();
    if (goal.matches("textarea")) goal.focus();
    else {
      goal.click();
      if (goal.matches("input")) goal.focus({ preventScroll: true });
    }
  });

  // --- writes: checked, sent once, sent again while the server is away
  let retry = null;
  document.addEventListener("submit", (event) => {
    const f = event.target;
    if (f.id !== "verdict") return;
    f.elements.seconds.value = seconds().toFixed(1);
    keep();
    const choice = f.elements.choice.value;
    if (choice && choice !== "skip" && !f.elements.confidence.value) {
      event.preventDefault(); event.stopImmediatePropagation();
      warn("How sure are you? Press 6, 7, 8 or 9, then Enter.");
      $("input[name=confidence]", f).focus({ preventScroll: true });
    }
  }, true);
  document.addEventListener("invalid", (event) => {
    if (event.target.form !== form()) return;
    event.preventDefault();
    warn("Choose first (1), second (2), tie (T) or cannot say (S), then Enter.");
  }, true);
  const away = (event) => {
    const source = event.detail.elt;
    if (source.id === "board") { warn("The server cannot be reached; what you see may be old."); return; }
    warn("The server cannot be reached. Your answer is kept on this page and sent again by itself.");
    clearTimeout(retry);
    if (source.id === "verdict") retry = setTimeout(() => { if (source.isConnected) source.requestSubmit(); }, RETRY_MS);
  };
  document.addEventListener("htmx:sendError", away);
  document.addEventListener("htmx:timeout", away);
  document.addEventListener("htmx:responseError", (event) => {
    const answer = event.detail.xhr;
    const plain = (answer.getResponseHeader("content-type") || "").startsWith("text/plain");
    if (answer.status >= 502 && answer.status <= 504) { away(event); return; }
    warn(plain && answer.status < 500 ? answer.responseText : "The server failed; nothing was saved. Try again, or tell the lead.");
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const f = form();
    if (event.detail.shouldSwap && event.detail.requestConfig.elt === f)
      try { sessionStorage.removeItem(name(f)); } catch { /* there was none */ }
    else keep();
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    warn("");
    if (event.detail.target.id === "work") begin(event.detail.target);
    else { const first = $("#attributes [data-focus]"); if (first) first.focus(); shown(); }
  });

  addEventListener("DOMContentLoaded", () => {
    const keys = $("#single-keys");
    if (keys) {
      keys.checked = localStorage.getItem("single keys") !== "no";
      keys.addEventListener("change", () => localStorage.setItem("single keys", keys.checked ? "yes" : "no"));
    }
    begin(document);
  });
})();
