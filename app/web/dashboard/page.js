// Refreshes the page in place, and tries prompts without leaving it.  The page works without this.
"use strict";
const EVERY_MS = 10000;
const again = document.getElementById("again");
const told = document.getElementById("told");
const box = document.getElementById("try");

async function load(options) {
  const answer = await fetch(location.href, { cache: "no-store", ...options });
  if (answer.status === 401) location.reload();  // the key was changed: ask for it
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

function swap(old, fresh) {
  if (!fresh || old.contains(document.activeElement) || old.innerHTML === fresh.innerHTML) return;
  const open = [...old.querySelectorAll("details")].map((one) => one.open);
  const scrolled = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  old.replaceChildren(...fresh.childNodes);
  old.querySelectorAll("details").forEach((one, at) => { one.open = Boolean(open[at]); });
  old.querySelectorAll(".scroll").forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
}

async function refresh() {
  if (document.hidden || !again.checked) return;
  try {
    const page = await load({});
    for (const old of document.querySelectorAll("[data-live]")) swap(old, page.getElementById(old.id));
    told.textContent = "";
  } catch {
    told.textContent = "The router does not answer.";
  }
}

box.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  try {
    const page = await load({ method: "POST", body: new URLSearchParams(new FormData(box)) });
    answer.replaceChildren(...page.getElementById("answer").childNodes);
  } catch {
    answer.textContent = "The router does not answer.";
  }
});

document.getElementById("refreshing").hidden = false;
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
