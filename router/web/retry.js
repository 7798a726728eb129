// Asking again by itself, with growing pauses. One thing at a time waits to be tried again.

const RETRY_MAX_S = 15;

let timer;
let due = 0;

export const pause = (attempt) => Math.min(2 ** attempt, RETRY_MAX_S);

/** again(attempt + 1) after `seconds`, while the page can be seen; `onTick` is given the seconds that are left. */
export function retryLater(seconds, attempt, again, onTick) {
  clearInterval(timer);
  due = Date.now() + seconds * 1000;
  const tick = () => {
    const left = due - Date.now();
    if (left <= 0 && !document.hidden) again(attempt + 1);
    else onTick(Math.max(1, Math.ceil(left / 1000)));
  };
  timer = setInterval(tick, 250);
  tick();
}

export const stopRetrying = () => clearInterval(timer);

/** What waits is tried now. */
export const retryNow = () => (due = 0);
