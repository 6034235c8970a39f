// Refreshes the page in place, and tries prompts without leaving it.  The page works without this.
"use strict";
const EVERY_MS = 10000;
const again = document.getElementById("again");
const told = document.getElementById("told");
const box = document.getElementById("try");

const why = (error) => error instanceof TypeError ? "The router does not answer." : error.message;

async function load(options) {
  const answer = await fetch(location.href, { cache: "no-store", ...options });
  if (answer.status === 401) location.reload();  // the key was changed: ask for it
  if (!answer.headers.get("Content-Type").startsWith("text/html")) throw new Error((await answer.json()).error.message);
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
  } catch (error) {
    told.textContent = why(error);
  }
}

box.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  try {
    const page = await load({ method: "POST", body: new URLSearchParams(new FormData(box)) });
    answer.replaceChildren(...page.getElementById("answer").childNodes);
  } catch (error) {
    answer.textContent = why(error);
  }
});

document.getElementById("refreshing").hidden = false;
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
