// The form that asks for a key, in the place of answers.

import { hasKey, keepKey } from "./server.js";

const $ = (id) => document.getElementById(id);
const [gate, form, input, forget] = ["gate", "key-form", "key", "forget"].map($);

export const isShut = () => !gate.hidden;

/** Asks for a key, and says what the server said against the one before. */
export function shut(detail) {
  $("key-problem").textContent = hasKey() ? detail : "";
  input.setAttribute("aria-invalid", hasKey());
  input.value = "";
  keepKey(null);
  gate.hidden = false;
}

export const focus = () => input.focus();

/** Whether it was shut. */
export function pass() {
  const wasShut = isShut();
  gate.hidden = true;
  return wasShut;
}

export function showKeyUse() {
  forget.hidden = !hasKey();
  $("docs").hidden = hasKey() || isShut(); // a link carries no key
}

export function followKey(onKey) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(input.value.trim());
    onKey();
  });
  forget.addEventListener("click", () => {
    keepKey(null);
    location.reload();
  });
}
