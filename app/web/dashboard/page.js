// Refresh the page in place, and explain prompts without a reload.  The page works without this script.
"use strict";
const EVERY_MS = 10000;
const refreshing = document.getElementById("again");
const notice = document.getElementById("told");
const form = document.getElementById("try");

const message = (error) => error instanceof TypeError ? "The router does not answer." : error.message;

async function load(options) {
  const response = await fetch(location.href, { cache: "no-store", ...options });
  if (response.status === 401) location.reload();  // the key changed: show the form for it
  if (!response.headers.get("Content-Type").startsWith("text/html")) throw new Error((await response.json()).error.message);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

function swap(old, fresh) {
  if (!fresh || old.contains(document.activeElement) || old.innerHTML === fresh.innerHTML) return;
  const open = [...old.querySelectorAll("details")].map((details) => details.open);
  const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  old.replaceChildren(...fresh.childNodes);
  old.querySelectorAll("details").forEach((details, at) => { details.open = Boolean(open[at]); });
  old.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
}

async function refresh() {
  if (document.hidden || !refreshing.checked) return;
  try {
    const page = await load({});
    for (const old of document.querySelectorAll("[data-live]")) swap(old, page.getElementById(old.id));
    notice.textContent = "";
  } catch (error) {
    notice.textContent = message(error);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  try {
    const page = await load({ method: "POST", body: new URLSearchParams(new FormData(form)) });
    answer.replaceChildren(...page.getElementById("answer").childNodes);
  } catch (error) {
    answer.textContent = message(error);
  }
});

document.getElementById("refreshing").hidden = false;
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
