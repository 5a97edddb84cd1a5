// The front page: whether the gateway accepts jobs.

const place = document.getElementById("state");

async function showState() {
  const answer = await fetch("/v1/health/ready").catch(() => null);
  const found = await answer?.json().catch(() => null);
  place.className = `readiness ${answer?.ok ? "good" : "bad"}`;
  if (answer?.ok) place.textContent = "✓ Ready: the gateway accepts jobs.";
  else place.textContent = `✕ Not ready: ${silentParts(found)}.`;
}

/** Return the names of the services that do not answer. */
function silentParts(found) {
  const silent = Object.entries(found?.checks ?? {}).filter(([, answer]) => answer !== "ok").map(([name]) => name);
  return silent.length ? `no answer from ${silent.join(", ")}` : "the gateway does not answer";
}

showState();
